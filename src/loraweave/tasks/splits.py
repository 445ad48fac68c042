"""Which rows are learned, which choose learning rates and checkpoints, and which are scored: from what rows say alone.

Neither the run's seed nor the task's name nor the order of the file decides, so that all runs are asked the same, and a
row that is added moves no other. Rows that ask the same stay together: what is scored has not been learned.
"""

import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loraweave.errors import UserError
from loraweave.tasks.examples import Message
from loraweave.tasks.messages import REASONING
from loraweave.tasks.task import VALIDATION_MOST, VALIDATION_SHARE, Group

TEST_SHARE, TEST_MOST = 0.1, 500
ENOUGH = 0.8
"""Of the rows wanted for a split: rows come in groups, so that seldom just as many can be had."""
SHOWN = frozenset(("role", "content", "name", "tool_calls", *REASONING))
"""Of a message, in a comparison of what rows ask."""
LARGEST = 1 / 3
"""Of all rows: rows that ask the same may be this many, and be held out, where no fewer can be."""


@dataclass
class Splits:
    """The rows of a source by their numbers, from 0.

    Attributes:
        training, validation, test: in the order of the source.
        notes: what is to be said about rows that ask the same.
    """

    training: list[int]
    validation: list[int] = field(default_factory=list)
    test: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def split(
    groups: Sequence[Group],
    labels: Sequence[Hashable],
    where: str,
    validation: float | bool | None = None,
    test: float | bool | None = None,
) -> Splits:
    """Share rows out.

    Args:
        groups: what each row says.
        labels: of each row: each split gets its part of every label. All alike where rows have none.
        where: for messages.
        validation, test: a share of the rows, for validation of those that are not scored; None for the usual one (5 %
            and 10 %, 200 and 500 at most); False for none, since rows for it come from elsewhere.

    Returns:
        The splits. Of few rows some are learned first, then one chooses, then one is scored: those of a few rows that
        nobody asked a share of may be empty.

    Raises:
        UserError: a share that was asked for cannot be had.
    """
    total = len(groups)
    wanted = {"test": _wanted(test, total, TEST_SHARE, TEST_MOST)}
    wanted["validation"] = _wanted(validation, total - wanted["test"], VALIDATION_SHARE, VALIDATION_MOST)
    asked = _together([_asks(group) for group in groups])
    said = _together([_says(group) for group in groups])
    found = _shared_out(asked, labels, wanted)
    apart = False
    if any(len(found[name]) < ENOUGH * number for name, number in wanted.items()):
        other = _shared_out(said, labels, wanted)
        apart = sum(map(len, other.values())) > 2 * sum(map(len, found.values()))
        found = other if apart else found
    for name, share in (("test", test), ("validation", validation)):
        if share and len(found[name]) < ENOUGH * wanted[name]:
            raise UserError(
                f"{where}: `{name}: {share}` cannot be met: of the {wanted[name]:,} rows that it wants "
                f"{len(found[name]):,} can be had, for there are {len(set(said)):,} different rows, and some of each "
                "kind are to be learned; ask for less, or name a file"
            )
    held_out = {index for rows in found.values() for index in rows}
    return Splits(
        [index for index in range(total) if index not in held_out],
        found["validation"],
        found["test"],
        list(_notes(asked, said, labels, apart)),
    )


def without_known(
    groups: Sequence[Group], known: Sequence[Group], split_name: str, other: str
) -> tuple[set[int], list[str]]:
    """Rows of one split that ask what rows of another ask, so that they are to go.

    Args:
        groups: of the rows.
        known: of the rows of the split that stays as it is.
        split_name, other: what the latter and the former are called.

    Returns:
        The numbers of those rows, and what is to be said about them. Where most rows would go, since all ask much the
        same, it is those that say the same.
    """
    asked = {key for group in known for key in _asks(group)}
    asking = {index for index, group in enumerate(groups) if asked & set(_asks(group))}
    found, same = asking, "ask"
    if 2 * len(asking) > len(groups):
        said = {key for group in known for key in _says(group)}
        found, same = {index for index, group in enumerate(groups) if said & set(_says(group))}, "say"
    if found and len(found) == len(groups):
        return set(), [f"all {len(groups):,} rows of {other} stand in {split_name} too, and stay in both"]
    note = f"{other}: {len(found):,} of {len(groups):,} rows left out, for rows of {split_name} {same} the same"
    notes = [note] if found else []
    if left := len(asking - found):
        stay = f"rows ask what rows of {split_name} ask, and stay: too few others are there to learn"
        notes.append(f"{other}: {left:,} of {len(groups):,} {stay}")
    return found, notes


def _wanted(share: float | bool | None, total: int, usual: float, most: int) -> int:
    if share is False:
        return 0
    return max(1, min(most, int(usual * total)) if share is None else round(share * total))


def _asks(group: Group) -> list[str]:
    """What a row asks: each prompt of it; where there is none, what it says."""
    return [_hash(_shown(example.prompt if example.prompt else example.completion), example.tools) for example in group]


def _says(group: Group) -> list[str]:
    return [_hash([(_shown(each.prompt), _shown(each.completion)) for each in group], group[0].tools)]


def _shown(said: str | list[Message]) -> Any:
    """What a template shows of messages: no time or number of a turn, no id of a call."""
    if isinstance(said, str):
        return said
    return [
        {
            key: [{k: v for k, v in call.items() if k != "id"} for call in part] if key == "tool_calls" else part
            for key, part in message.items()
            if key in SHOWN
        }
        for message in said
    ]


def _hash(*said: object) -> str:
    text = json.dumps(said, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _together(keys: Sequence[Sequence[str]]) -> list[str]:
    """For each row the name of all those that it shares a key with, directly or through others: their least key."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for some in keys:
        for key in some[1:]:
            low, high = sorted((root(some[0]), root(key)))
            parent[high] = low
    return [root(some[0]) for some in keys]


def _shared_out(names: Sequence[str], labels: Sequence[Hashable], wanted: Mapping[str, int]) -> dict[str, list[int]]:
    """The rows of each split that is held out; rows of one name stay together.

    A name with more rows than a split wants is learned: one row that stands there a thousand times must not be the
    whole of what is scored. Of every label something is learned.
    """
    members: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        members.setdefault(name, []).append(index)
    of_label: dict[Hashable, list[str]] = {}
    for name in sorted(members):
        of_label.setdefault(labels[members[name][0]], []).append(name)
    found: dict[str, list[int]] = {}
    left = len(members)
    for split_name, later in (("test", 2), ("validation", 1)):
        sizes = {label: sum(len(members[name]) for name in some) for label, some in of_label.items()}
        rows: list[int] = []
        for label, number in _parts(wanted[split_name], sizes).items():
            some, taken = of_label[label], 0
            for name in list(some):
                size = len(members[name])
                if taken + size <= number and left > later and len(some) > 1:
                    some.remove(name)
                    rows += members[name]
                    taken, left = taken + size, left - 1
        few = [(len(members[name]), name, some) for some in of_label.values() for name in some[1:]]
        if not rows and wanted[split_name] and left > later and few:
            size, name, some = min(few, key=lambda each: each[:2])
            if size <= LARGEST * len(names):
                some.remove(name)
                rows, left = members[name], left - 1
        found[split_name] = sorted(rows)
    return found


def _parts(total: int, sizes: Mapping[Hashable, int]) -> dict[Hashable, int]:
    """A number in proportion to sizes, in whole numbers (largest remainder)."""
    whole = sum(sizes.values())
    exact = {label: total * size / whole for label, size in sizes.items()}
    parts = {label: int(number) for label, number in exact.items()}
    by_rest = sorted(exact, key=lambda label: (parts[label] - exact[label], str(label)))
    for label in by_rest[: total - sum(parts.values())]:
        parts[label] += 1
    return parts


def _notes(asked: Sequence[str], said: Sequence[str], labels: Sequence[Hashable], apart: bool) -> Iterable[str]:
    asks, says = len(set(asked)), len(set(said))
    if asks < len(asked):
        same = "say the same are on one side of the splits: there are too few prompts for more"
        yield (
            f"{len(asked):,} rows ask {asks:,} different things and say {says:,}; rows that "
            f"{same if apart else 'ask the same are on one side of the splits'}"
        )
    by_name: dict[str, set[Hashable]] = {}
    for name, label in zip(asked, labels, strict=True):
        by_name.setdefault(name, set()).add(label)
    if torn := sum(len(some) > 1 for some in by_name.values()):
        yield f"texts with more than one label: {torn:,} of {len(by_name):,}"
