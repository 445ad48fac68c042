"""The one place where PEFT's list of methods is extended: the enum member `PeftType.LORAWEAVE`.

PEFT has no public way to add a member, and `register_peft_method` refuses a name that is not one. The member behaves
like the built-in ones: equal to its string, found by value and by attribute, saved to and read from JSON.
"""

from peft.utils import PeftType

from loraweave.foreign import private

TABLES = ("_member_names_", "_member_map_", "_value2member_map_")  # of Python's enum


def _add_member(name: str) -> PeftType:
    if name in PeftType.__members__:
        return PeftType[name]
    names, by_name, by_value = (private(PeftType, table, f"the method {name}") for table in TABLES)
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    names.append(name)
    by_name[name] = member
    by_value[name] = member
    type.__setattr__(PeftType, name, member)
    return member


LORAWEAVE: PeftType = _add_member("LORAWEAVE")
