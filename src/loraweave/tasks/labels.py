"""Text that gets one of several labels: which there are, how a row names its own, and the prompt that asks for it."""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loraweave.errors import UserError, nearest, shown
from loraweave.tasks.examples import Example
from loraweave.tasks.fields import rendered
from loraweave.tasks.formats import Templates, asked
from loraweave.tasks.rows import Row
from loraweave.tasks.task import Group

MOST_LABELS = 256
"""Each label is ranked for each row: with more of them an answer should be written instead."""

OWN_ANSWER = re.compile(r"[a-h]|op[a-h]|(option|choice|opt|distractor|incorrect.?answer).?\w{1,2}", re.IGNORECASE)
"""Columns with one each of the answers that a question leaves to choose from."""

Choices = list[str] | dict[Any, str] | str
"""Names in the order of the numbers that stand for them; names by the value in a row; or a template or column that
gives each row's own."""


class UnnamedError(UserError):
    """Labels are numbers, and nothing says what they stand for; `numbers`: which there are."""

    def __init__(self, message: str, numbers: list[int]) -> None:
        super().__init__(message)
        self.numbers = numbers


@dataclass
class Labels(Templates):
    """Rows with a label, which a model is asked to find the likeliest of all.

    Attributes:
        choices: the labels' names; empty where each row has its own.
        by_value: the number of the name that a value of a row stands for.
        own_choices: the template of each row's own names.
    """

    choices: list[str] = field(default_factory=list)
    by_value: dict[Any, int] = field(default_factory=dict)
    own_choices: str = ""

    def templates(self, chat: bool) -> dict[str, str]:
        choices = self.own_choices or ", ".join(self.choices)
        return {**super().templates(chat), "choices": choices}

    def examples(self, row: Row, chat: bool) -> Group:
        prompt, names, gold = self._prompt(row, chat), self.names(row), self.gold(row)
        return [Example(asked(prompt, chat), names[gold], by_likelihood=True, place=row.place)]

    def document(self, row: Row, chat: bool, answered: bool = True) -> dict[str, Any]:
        gold = self.gold(row) if answered else 0
        return {"prompt": self._prompt(row, chat), "choices": self.names(row), "gold": gold}

    def label(self, row: Row) -> Hashable:
        return None if self.own_choices else self.gold(row)

    def names(self, row: Row) -> list[str]:
        """The labels that a row may have."""
        if not self.own_choices:
            return self.choices
        self._check_fields("choices", self.own_choices, row)
        found = field_value(self.own_choices, row)
        if not isinstance(found, list) or len(found) < 2 or not all(isinstance(name, str) and name for name in found):
            raise UserError(f"{row.place}: 'choices' must give a list of two texts or more, not {shown(found)}")
        return found

    def gold(self, row: Row) -> int:
        """Which of `names` is right."""
        self._check_fields("completion", self.completion_template, row)
        value, names = field_value(self.completion_template, row), self.names(row)
        check_label(value, row.place)
        found = self._own_gold(value, names, row) if self.own_choices else self.by_value.get(as_key(value))
        if found is not None:
            return found
        named = ", ".join(map(repr, names[:12])) + (", ..." if len(names) > 12 else "")
        hint = nearest(value, names) if isinstance(value, str) else ""
        raise UserError(f"{row.place}: the label {value!r} is not among the choices: {named}{hint}")

    def _own_gold(self, value: Any, names: list[str], row: Row) -> int | None:
        """The number of a row's own choice that a value names: a name first, then a place or a letter."""
        key = as_key(value)
        text = value.strip() if isinstance(value, str) else str(key)
        named = names.index(text) if text in names else None
        place = _places(names).get(key)
        if isinstance(value, str) or None in (named, place) or named == place:
            return place if named is None else named
        options, answer = (template.strip("{} ") for template in (self.own_choices, self.completion_template))
        by_place, by_name = f"'{{{{{options}[{answer}]}}}}'", f"'{{{{{answer} | string}}}}'"
        raise UserError(
            f"{row.place}: the label {text} may be number {text} of the choices, {names[int(value)]!r}, or the choice "
            f"{text!r}: as completion write {by_place} for the first or {by_name} for the other"
        )


def check_label(value: Any, place: str) -> None:
    """Raise UserError for a value that can be no label; `place` of its row."""
    if not isinstance(value, (str, int, float)):
        raise UserError(f"{place}: a label is a name or a whole number, not {type(value).__name__}")


def field_value(template: str, row: Row) -> Any:
    """What a template that is one column gives, as it stands in the row; else the text that it makes."""
    inner = template.strip()
    name = inner[2:-2].strip() if inner.startswith("{{") and inner.endswith("}}") else inner
    if name.isidentifier() and name in row.values:
        return row.values[name]
    return rendered(template, row.values, row.place)


def as_key(value: Any) -> Any:
    """A label's value, one for all its spellings: no space is part of a name, and 1.0, which a gap in a column makes of
    1, and "1" are 1."""
    if isinstance(value, str):
        name = value.strip()
        digits = name.removeprefix("-")
        return int(name) if digits.isascii() and digits.isdigit() and name == str(int(name)) else name
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value


def counted(values: Iterable[Any]) -> dict[Any, int]:
    """How often each label stands there, in the order of numbers or names; an empty one is none."""
    counts = Counter(key for value in values if (key := as_key(value)) not in (None, ""))
    return dict(sorted(counts.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def names_of(
    counts: Mapping[Any, int], choices: list[str] | dict[Any, str] | None, known: list[str] | None, where: str
) -> dict[Any, str]:
    """The name of each value that a row may have for its label, in the order of the names.

    Args:
        counts: of the values that there are.
        choices: as the run file has them.
        known: names that came with the data.
        where: file and column, for messages.

    Raises:
        UserError: numbers without names, or values that are no labels.
    """
    numbers = [value for value in counts if not isinstance(value, str)]
    if odd := [value for value in numbers if not isinstance(value, int)]:
        raise UserError(f"{where}: holds {shown(odd[0])}, and a label is a name or a whole number")
    if isinstance(choices, dict):
        return {as_key(value): name for value, name in choices.items()}
    names = choices or known
    if names is None and len(numbers) < len(counts):
        names = [str(value) for value in counts]
    if names is None:
        raise UnnamedError(f"{where}: holds {_span(numbers)} without names: {cure(numbers)}", numbers)
    by_name = {as_key(name): name for name in names}
    came_with_numbers = choices is None and known is not None  # then a number is a place, also where names are numbers
    if not numbers or (set(numbers) <= set(by_name) and not came_with_numbers):  # their own names: stars, grades
        return by_name
    if not any(isinstance(value, str) and value in by_name for value in counts) and (
        min(numbers) < 0 or max(numbers) >= len(names)
    ):
        raise UserError(
            f"{where}: holds {_span(numbers)}, and there are {len(names)} names, which stand for 0, 1 and so on; where "
            "the numbers begin elsewhere write choices as a mapping, {number: name, ...}"
        )
    places = dict(enumerate(names))  # also for names that look like numbers
    if places.keys() & by_name.keys():  # of which one cannot tell which is meant: 5 of five stars is no place
        by_name = {name: shown for name, shown in by_name.items() if isinstance(name, str)}
    return places | by_name


def options_of(names: Iterable[str], rows: Sequence[Row], answer: str) -> list[str]:
    """The columns that hold the answers to choose from, one each; none where the column `answer` does not name one of
    them, in most rows: by its name, by the letter or number at its end, or by what stands there."""
    found = [name for name in names if OWN_ANSWER.fullmatch(name)]

    def is_chosen(row: Row) -> bool:
        said = str(row.values.get(answer)).strip().lower()
        known = (part for name in found for part in (name, name[-1], str(row.values.get(name)).strip()))
        return said in {part.lower() for part in known}

    return found if len(found) > 1 and 2 * sum(map(is_chosen, rows)) > len(rows) else []


def cure(numbers: Iterable[int]) -> str:
    """What to write where labels are numbers without names."""
    wanted = sorted(numbers)
    if wanted == list(range(len(wanted))):
        return f"add choices: [{', '.join(f'name of {number}' for number in wanted)}]"
    return f"add choices: {{{', '.join(f'{number}: its name' for number in wanted)}}}"


def _span(numbers: list[int]) -> str:
    few = len(numbers) <= 12
    return f"the numbers {', '.join(map(str, numbers)) if few else f'{min(numbers)} to {max(numbers)}'}"


def _places(names: list[str]) -> dict[Any, int]:
    """Each row's own names by their numbers and their letters (A, B, ...)."""
    return {chr(ord("A") + number): number for number in range(min(26, len(names)))} | {
        number: number for number in range(len(names))
    }
