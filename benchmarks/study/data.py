"""The data of both regimes, from a folder of small public sets (`SET/train.jsonl`, `SET/test.jsonl`): deterministic.

`shared`: one pool of texts about which six questions are asked, so that the same text wants six answers. `apart`: six
sets that have nothing in common but the model.
"""

import gzip
import json
import random
from collections.abc import Iterator, Mapping, Set
from itertools import islice
from pathlib import Path
from typing import Any

from loraweave.errors import UserError
from loraweave.files import make_folder, write_json_lines, write_text

TRAIN, TEST = 2400, 500
LONGEST = 240  # characters: a text, an answer and a question fit into a quarter of a row
APART = ("trec", "inflect_en", "wikisql", "mawps", "arc_easy", "rte")
LANGUAGES = ("English", "French", "German", "Spanish", "Italian", "Portuguese", "Dutch", "Polish")
FEELINGS = {"joy": "positive", "love": "positive", "anger": "negative", "fear": "negative", "sadness": "negative"}
KINDS: dict[str, tuple[str, float]] = {
    "review": ("sst2", 0.15),
    "news": ("ag_news", 0.15),
    "message": ("emotion", 0.15),
    "question": ("trec", 0.10),
    "command": ("snips", 0.10),
    "sentence": ("langid", 0.35),
}
"""Of the pool: each kind of text, the set that it comes from, and its share."""

FORGETTING = 10_000
"""Characters of plain text, on which nothing is trained."""


def make_data(source: Path, folder: Path, train: int = TRAIN, test: int = TEST) -> None:
    """Write the data of both regimes and the plain text, the same each time: what an earlier plan made is not gone on
    with.

    Args:
        source: the folder with the sets; the plain text is in `corpus/wiki.txt.gz` beside it.
        folder: to write: `shared/pool/{train,test}.jsonl`, `apart/SET/{train,test}.jsonl` and `forgetting.txt`.
        train, test: rows of each file at most.

    Raises:
        UserError: a set is not there.
    """
    asked = pool(source, "test", test)
    learned = pool(source, "train", train, without={row["text"] for row in asked})
    for split, texts in (("train", learned), ("test", asked)):
        _write(folder / "shared" / "pool" / f"{split}.jsonl", texts)
        for name in APART:
            rows = _some(source, name, split, train if split == "train" else test)
            _write(folder / "apart" / name / f"{split}.jsonl", rows)
    write_text(folder / "forgetting.txt", plain_text(source.parent / "corpus" / "wiki.txt.gz", FORGETTING))


def pool(source: Path, split: str, rows: int, without: Set[str] = frozenset()) -> list[dict[str, str]]:
    """Texts of six kinds, each with its answers to all questions; no text twice, and none of `without`.

    Returns:
        `rows` of them at most, in random order: `text`, `kind`, `sentiment`, `language`, `length`, `first`, `last`.
    """
    found: dict[str, dict[str, str]] = {}
    for kind, (name, share) in KINDS.items():
        wanted, taken = round(share * rows), 0
        for row in _shuffled(source, name, split):
            answered = answers(kind, row)
            if answered is None or answered["text"] in found or answered["text"] in without or taken == wanted:
                continue
            found[answered["text"]] = answered
            taken += 1
    texts = [*found.values()]
    random.Random(f"{split} pool").shuffle(texts)
    return texts


def answers(kind: str, row: Mapping[str, str]) -> dict[str, str] | None:
    """A text of the pool with what it wants to each question; None for one that is not taken: too long, in another
    language, of a feeling that is neither good nor bad, or without two different words."""
    text, label = " ".join(row["text"].split()), row["label"]
    words = [word for word in map(_bare, text.split()) if word]
    if len(text) > LONGEST or len(words) < 2 or words[0] == words[-1]:
        return None
    known = {"sentence": LANGUAGES, "message": FEELINGS}.get(kind)
    if known is not None and label not in known:
        return None
    return {
        "text": text,
        "kind": kind,
        "sentiment": {"review": label, "message": FEELINGS.get(label, "")}.get(kind, "neutral"),
        "language": label if kind == "sentence" else "English",
        "length": "short" if len(words) < 10 else "medium" if len(words) < 20 else "long",
        "first": words[0],
        "last": words[-1],
    }


def plain_text(path: Path, characters: int) -> str:
    """The beginning of a text file that is compressed with gzip, up to the end of a line."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; it holds the plain text on which forgetting is measured")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read(characters).rpartition("\n")[0] + "\n"


def _bare(word: str) -> str:
    """A word without what is no letter or digit at its ends."""
    start, end = 0, len(word)
    while start < end and not word[start].isalnum():
        start += 1
    while end > start and not word[end - 1].isalnum():
        end -= 1
    return word[start:end]


def _some(source: Path, name: str, split: str, rows: int) -> list[dict[str, Any]]:
    found = _shuffled(source, name, split)
    if name == "arc_easy":  # two rows of 2,251 have a fifth answer
        found = (row for row in found if row["answer"] != "answer5")
    return [*islice(found, rows)]


def _shuffled(source: Path, name: str, split: str) -> Iterator[dict[str, Any]]:
    path = source / name / f"{split}.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: no such file; examples/tasks/README.md says where the sets come from")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    random.Random(f"{split} {name}").shuffle(rows)
    yield from rows


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    make_folder(path.parent)
    write_json_lines(path, rows)
