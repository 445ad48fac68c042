"""What pydantic finds wrong with a run file, told as lines: each with its place, and with what would be right."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from loraweave.errors import UserError, nearest, problems_of, shown
from loraweave.runs.yamlfile import Lines

Known = Callable[[Sequence[Any]], Iterable[str]]
"""The keys that may stand where the last of some keys does."""


class Places:
    """Where each value of a run file was set.

    Args:
        lines: of the file.
        set_here: what was typed over it, by the keys that it sets.
        tags: what pydantic puts into a place beside the file's own keys.
    """

    def __init__(self, lines: Lines, set_here: Mapping[tuple[str, ...], str], tags: Sequence[str]) -> None:
        self.lines = lines
        self.set_here = set_here
        self.tags = tags

    def of(self, keys: Sequence[Any]) -> str:
        """The override, or the line of the file, in which the value under some keys stands."""
        words = [str(key) for key in keys]
        override = next((t for given, t in self.set_here.items() if all(map(str.__eq__, given, words))), None)
        return f"--set {shown(override)}" if override else self.lines.of(keys)

    def of_field(self, message: str, section: str) -> str:
        """Where the field of `section` that a message speaks of was set."""
        words = message.replace(":", " ").replace("'", " ").replace(f"{section}.", "").split()
        if message.startswith("unknown method"):
            words = ["name"]
        for word in words:
            if (section, word) in self.set_here:
                return f"--set {shown(self.set_here[section, word])}"
            if self.lines.of([section, word]) != self.lines.of([section]):
                return self.lines.of([section, word])
        return self.of([section])


def halves(value: Any, places: Places, keys: Sequence[Any] = ()) -> Iterator[str]:
    """A line for each text that holds half of a character, which a file can escape and nothing can write."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            found = [*halves(key, places, keys)]
            yield from found or halves(inner, places, (*keys, key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from halves(inner, places, (*keys, number))
    elif isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        name = ".".join(map(str, keys))
        yield f"{places.of(keys)}: {f'{name}: ' if name else ''}{shown(value)} holds half of a character"


def told(error: ValidationError, places: Places, known: Known) -> list[str]:
    """All that pydantic found wrong, a line each; unknown keys first: a key that is misspelt is both missing and
    unknown, and the second tells more."""
    problems = [(problem, [key for key in problem["loc"] if key not in places.tags]) for problem in error.errors()]
    unknown = [place for problem, place in problems if problem["type"] == "extra_forbidden"]
    lines: list[str] = []
    for problem, place in sorted(problems, key=lambda each: each[0]["type"] != "extra_forbidden"):
        misspelt = any(p[:-1] == place[:-1] and nearest(str(p[-1]), [str(place[-1])]) for p in unknown if place)
        if not (problem["type"] == "missing" and misspelt):
            lines += _one(problem, place, places, known)
    return lines


def _one(problem: Any, place: Sequence[Any], places: Places, known: Known) -> Iterator[str]:
    where, name = places.of(place), ".".join(map(str, place))
    cause = (problem.get("ctx") or {}).get("error")
    if problem["type"] == "extra_forbidden":
        yield f"{where}: unknown key {name!r}{nearest(str(place[-1]), known(place))}"
    elif problem["type"] == "missing":
        yield f"{places.lines.path}: the key {name!r} is missing"
    elif isinstance(cause, UserError):
        for line in problems_of(cause):  # of a method or a training argument it names the field
            yield f"{where if place[0] in ('tasks', 'eval') else places.of_field(line, str(place[0]))}: {line}"
    else:
        yield f"{where}: {name}: {problem['msg'].removeprefix('Value error, ')}, got {shown(problem['input'])}"
