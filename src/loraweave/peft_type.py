"""The one place where PEFT's list of methods is extended: the enum member `PeftType.LORAWEAVE`.

PEFT has no public way to add a member, and `register_peft_method` refuses a name that is not one. The member behaves
like the built-in ones: equal to its string, found by value and by attribute, saved to and read from JSON.
"""

from peft.utils import PeftType


def _add_member(name: str) -> PeftType:
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
    return member


LORAWEAVE: PeftType = _add_member("LORAWEAVE")
