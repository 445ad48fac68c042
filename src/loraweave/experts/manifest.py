"""The manifest of a library of experts, library.json: what is in it, whose files they are, and what they were."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import NotRequired, TypedDict

from loraweave.errors import UserError, nearest, shown
from loraweave.evaluation.scores import TaskScore
from loraweave.files import read_json, write_json
from loraweave.runs.folder import BaseRecord
from loraweave.shapes import check_shape
from loraweave.tasks.spec import A_NAME, is_name

NAME = "library.json"
EXPERTS = "experts"
FORMAT = 1
BASE, AUTO = "base", "auto"
"""Whom a request may name beside an expert: nobody, so that the base answers; or whomever the routing finds."""


class ExpertScore(TypedDict):
    """What an expert scored on a task: the fields of `TaskScore` that a person reads.

    `score` is in `unit`, and so is `stderr`, the standard error that comes from having only `n` examples.
    """

    score: float
    stderr: float | None
    n: int
    metric: str
    unit: str
    higher_is_better: bool


class _Entry(TypedDict):
    folder: str
    description: str
    instructions: list[str]
    prefixes: list[str]
    rank: int
    parameters: int
    source: str
    added: str
    fingerprint: str | None
    scores: dict[str, ExpertScore]
    files: dict[str, str]
    plain: NotRequired[bool]


class _Manifest(TypedDict):
    format: int
    base: BaseRecord
    experts: dict[str, _Entry]


@dataclass(frozen=True)
class Expert:
    """One expert of a library. Two are equal if their files and all that is said of them are.

    Attributes:
        name: of its task, by which it is asked for.
        folder: its files, which PEFT loads.
        description: what its task is, in words; what routing by description goes by.
        instructions: examples of what its task is asked. prefixes: how everything that it is asked may begin.
        rank: the largest of its layers. parameters: numbers that it is made of.
        source: where it came from.
        added: when, in UTC.
        fingerprint: of the base that it was trained on; None where nobody said.
        scores: what it scored, by task, as far as that is known.
        files: the hash of each of its files, by name.
        plain: whether it was trained on plain prompts and not on chats, as far as that is known.
    """

    name: str
    folder: Path
    description: str
    instructions: tuple[str, ...]
    prefixes: tuple[str, ...]
    rank: int
    parameters: int
    source: str
    added: str
    fingerprint: str | None
    files: Mapping[str, str]
    scores: Mapping[str, ExpertScore] = field(default_factory=dict)
    plain: bool = False

    def is_still(self, other: "Expert | None") -> bool:
        """Whether `other` is this expert with the same files, whatever else is said of it."""
        return other is not None and (self.name, self.files) == (other.name, other.files)


@dataclass(frozen=True)
class Manifest:
    """What a library's manifest says.

    Attributes:
        base: the name, and perhaps the fingerprint, of the base of all experts.
        experts: by name, in the order in which they came.
    """

    base: BaseRecord
    experts: dict[str, Expert]

    def expert(self, name: str, library: Path) -> Expert:
        """The expert of a name; `library`: its folder, for the message.

        Raises:
            UserError: there is none.
        """
        if name not in self.experts:
            there = f"(there are {', '.join(self.experts)})" if self.experts else "(it is empty)"
            raise UserError(f"{library}: no expert {name!r}{nearest(name, self.experts)} {there}")
        return self.experts[name]


def read_manifest(library: Path) -> Manifest:
    """The manifest in a library's folder.

    Raises:
        UserError: there is none, or it is not as this version writes it.
    """
    path = library / NAME
    if not path.is_file():
        raise UserError(f"{library}: holds no library of experts (no {NAME})")
    content = read_json(path)
    if content.get("format", FORMAT) != FORMAT:
        raise UserError(f"{path}: of format {content['format']}, and this version reads {FORMAT}: upgrade loraweave")
    check_shape(content, _Manifest, str(path))
    experts = {}
    for name, entry in content["experts"].items():
        check_name(name, str(path))
        for part in (entry["folder"], *entry["files"]):
            if Path(part).name != part or part in ("", ".", ".."):
                raise UserError(f"{path}: {name}: {shown(part)} is no name of a file or folder")
        said = {key: value for key, value in entry.items() if key in _Entry.__annotations__}
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
        experts[name] = Expert(name=name, **{**values, "folder": library / EXPERTS / entry["folder"]})
    return Manifest(content["base"], experts)


def write_manifest(library: Path, manifest: Manifest) -> None:
    """Write the manifest in one piece: readers see the old one or the new one."""
    experts = {}
    for name, expert in manifest.experts.items():
        values = {key: getattr(expert, key) for key in _Entry.__annotations__}
        experts[name] = {**values, "folder": expert.folder.name}
    write_json(library / NAME, {"format": FORMAT, "base": manifest.base, "experts": experts})


def check_name(name: str, where: str) -> None:
    """Raise UserError, with `where` it stands, for what no expert can be called."""
    if not is_name(name) or name != name.strip() or any(c in name for c in "/\\,:"):
        raise UserError(
            f"{where}: an expert cannot be called {shown(name)}: {A_NAME}, no slash, comma, colon or outer space"
        )
    if name in (BASE, AUTO):
        raise UserError(f"{where}: an expert cannot be called {name!r}, which says that {_SAYS[name]}")


_SAYS = {BASE: "the base is to answer", AUTO: "the expert is to be found by the request"}


def brief(scores: Mapping[str, TaskScore]) -> dict[str, ExpertScore]:
    """Scores without the outcomes of single examples."""
    return {task: {key: score[key] for key in ExpertScore.__annotations__} for task, score in scores.items()}  # type: ignore[literal-required,misc]


def check_texts(description: str, **texts: Sequence[str]) -> None:
    """Raise UserError for a description that is no text, or for lists of texts, by their names, that are none."""
    if not isinstance(description, str):
        raise UserError(f"description: a text is wanted, got {shown(description)}")
    for key, given in texts.items():
        if isinstance(given, str):
            raise UserError(f"{key}: a list of texts, got {shown(given)} alone")
        for text in given:
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"{key}: a text that is not empty is wanted, got {shown(text)}")
