"""A task made of data: rows of a known format, or of any columns with templates, shared out among three splits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from loraweave.errors import UserError, check_none
from loraweave.paths import user_path
from loraweave.tasks.columns import choose_format, listed_names, rows_of
from loraweave.tasks.examples import Example, Message
from loraweave.tasks.formats import PlainText
from loraweave.tasks.rows import BadRows, FileRows, Row
from loraweave.tasks.scored import SHOTS_FROM, Document, scored_rows, way_of
from loraweave.tasks.sources import read_held_out, read_source
from loraweave.tasks.spec import TaskSpec
from loraweave.tasks.splits import split, without_known
from loraweave.tasks.task import Group, Task
from loraweave.tasks.thoughts import have_thoughts


class _Read(NamedTuple):
    """A row, and what is learned from it."""

    row: Row
    group: Group


class DataTask(Task):
    """Rows of data, learned as they stand or as templates have them.

    Three splits: rows for the score alone, others to choose learning rates and checkpoints by, and those that are
    learned; the same whatever the seed (`tasks.splits`). Files named for the first two, and splits that a data set
    comes with, are taken as they are; what they ask is not learned.

    Args:
        spec: the entry of a run file.
        base: where its relative paths start.
        chat: whether prompts go through the tokenizer's chat template, where the rows leave that open.
        lm_eval: the lm-eval task that scores it in the place of the rows' own metric; None without.
        skip: leave out rows that cannot be used; without they are an error, which has all of them.

    Attributes:
        format: how its rows are read.
        kind: of its files, for people.

    Raises:
        UserError: its data are not there or are of no known format, or a row or a share of them is unfit.
    """

    def __init__(self, spec: TaskSpec, base: Path, chat: bool, lm_eval: Any = None, skip: bool = False) -> None:
        bad = BadRows(keep=True)
        source = read_source(spec.task, base, bad, spec.subset, spec.split)
        if not any(part.rows for part in source.splits["training"]):  # not one of them is even read
            check_none(row.message for row in bad.found)
        parts = source.splits["training"]
        try:
            self.format = choose_format(parts, spec.prompt, spec.completion, spec.choices, spec.metric)
        except UserError:
            if not skip:  # of a file in which most lines are damaged the others may not tell what it is
                check_none(row.message for row in bad.found)
            raise
        self.kind = source.splits["training"][0].kind
        chat = self.format.always_chat or (chat and not isinstance(self.format, PlainText))
        super().__init__(spec.name or source.name, source.where, chat, lm_eval, None, 0)
        way = way_of(self.format, source.where)
        notes = [f"{part.source}: {note}" for part in source.splits["training"] for note in part.notes]
        self.notes = [*notes, *self.format.notes]
        read = {"training": self._read(source.splits["training"], bad)}
        for name in ("validation", "test"):
            given = getattr(spec, name)
            if isinstance(given, str):
                before = len(bad.found)
                read[name] = self._read(read_held_out(given, base, bad, source.label_names), bad)
                if skip and not read[name] and bad.found[before:]:
                    reason = bad.found[before].message
                    raise UserError(f"{user_path(given, base)}: {name}: no row of it can be used; the first: {reason}")
            elif given is None and name in source.splits and (own := self._read_own(source.splits[name], bad)):
                read[name] = own
        if not skip:
            check_none(row.message for row in bad.found)
        if not read["training"]:
            raise UserError(f"{source.where}: no row can be used; the first: {bad.found[0].message}")
        self._read_rows = self._shared_out(read, spec, lm_eval is not None)
        self.skipped = bad.found
        if bad.found:
            rows = "1 row is" if len(bad.found) == 1 else f"{len(bad.found):,} rows are"
            self.notes.append(f"{rows} left out; the first: {bad.found[0].message}")
        if lm_eval is None and way is not None and (test := self._documents("test")):
            answers = [_answer(each) for some in self._read_rows.values() for one in some for each in one.group]
            shots = self._documents("training", SHOTS_FROM)
            self.lm_eval = scored_rows(self.name, way, self.format.metric, shots, test, answers)
        if lm_eval is None and not self._read_rows["test"]:
            self.notes.append("too few rows to hold some out for a score: name a file as 'test'")
        self._asks_itself = lm_eval is None

    @property
    def trainable(self) -> bool:
        return True

    @property
    def sources(self) -> set[Path]:
        """The files that it is learned from."""
        return {Path(row.source).resolve() for row, _ in self._read_rows["training"]}

    def test_examples(self) -> list[Example]:
        """The rows to score; none where there are too few to spare any, or where `eval` names what scores it."""
        return [example for read in self._read_rows["test"] for example in read.group]

    def _training_groups(self) -> list[Group]:
        return [read.group for read in self._read_rows["training"]]

    def _own_validation(self) -> list[Example]:
        return [example for read in self._read_rows["validation"] for example in read.group]

    @property
    def thinks(self) -> bool:
        read = () if self._asks_itself else self._read_rows["training"]
        return have_thoughts(example for each in read for example in each.group)

    def question(self, values: Mapping[str, Any], place: str) -> str | list[Message] | None:
        row = Row(dict(values), place)
        if self._asks_itself and self.lm_eval is not None:
            return None
        if not self._asks_itself and not set(self.format.columns[:1]) <= set(values):
            return None
        return self.format.prompt(row, self.chat_template)

    def tools(self, values: Mapping[str, Any], place: str) -> list[dict[str, Any]] | None:
        return self.format.tools(Row(dict(values), place), self.chat_template)

    def document(self, values: Mapping[str, Any], place: str) -> Document:
        if not self._asks_itself:
            return dict(values)
        return self.format.document(Row(dict(values), place), self.chat_template, answered=False)

    @property
    def templates(self) -> dict[str, str]:
        """How columns become prompts and answers, by the names of the run file; empty for messages and text."""
        return self.format.templates(self.chat_template)

    @property
    def about(self) -> str:
        sizes = {name: len(rows) for name, rows in self._read_rows.items()}
        shares = f"{sizes['training']:,} to learn, {sizes['validation']:,} to choose by, {sizes['test']:,} to score"
        rows = sum(sizes.values())
        unused = f"; not used: {listed_names(self.format.unused)}" if self.format.unused else ""
        return f"{self.format.name} ({self.kind}), {rows:,} {'row' if rows == 1 else 'rows'}: {shares}{unused}"

    def record(self) -> dict[str, Any]:
        held_out: dict[str, dict[str, list[int]]] = {}
        for name in ("validation", "test"):
            held_out[name] = {}
            for row, _ in self._read_rows[name]:
                held_out[name].setdefault(row.source, []).append(row.number)
        return {
            "data": self.origin,
            "kind": self.kind,
            "format": self.format.name,
            "columns": list(self.format.columns),
            **self.templates,
            "rows": {name: len(rows) for name, rows in self._read_rows.items()},
            "chat_template": self.chat_template,
            "left_out": len(self.skipped),
            "held_out": held_out,
            "notes": self.notes,
        }

    def _read(self, parts: Sequence[FileRows], bad: BadRows) -> list[_Read]:
        """The rows that can be used; the others go to `bad`."""
        found = []
        likelihood = self.lm_eval is not None and self.lm_eval.OUTPUT_TYPE != "generate_until"
        for row in (row for part in parts for row in rows_of(part)):
            try:
                group = self.format.examples(row, self.chat_template)
            except UserError as error:
                bad.add(error, row.source, row.number, row.values)
                continue
            found.append(_Read(row, [replace(each, by_likelihood=True) for each in group] if likelihood else group))
        return found

    def _read_own(self, parts: Sequence[FileRows], bad: BadRows) -> list[_Read]:
        """The rows of a split that the data come with. Many data sets keep the answers of one to themselves: it is no
        split for this purpose, then."""
        own = BadRows(keep=True)
        found = self._read(parts, own)
        if own.found and not found:
            self.notes.append(f"{parts[0].source}: not used, for no row has an answer; {own.found[0].message}")
            return []
        for each in own.found:
            bad.add(UserError(each.message), each.source, each.number, each.content)
        return found

    def _shared_out(self, read: dict[str, list[_Read]], spec: TaskSpec, elsewhere: bool) -> dict[str, list[_Read]]:
        """The rows of each split, those of `training` without what others ask; `elsewhere`: none is to be scored."""
        rows = read["training"]
        found = split(
            [each.group for each in rows],
            [self.format.label(each.row) for each in rows],
            self.origin,
            False if "validation" in read or isinstance(spec.validation, str) else spec.validation,
            False if elsewhere or "test" in read or isinstance(spec.test, str) else spec.test,
        )
        self.notes += found.notes
        splits = {name: [rows[index] for index in getattr(found, name)] for name in ("training", "validation", "test")}
        splits |= {name: some for name, some in read.items() if name != "training"}
        for name, other in (("test", "training"), ("test", "validation"), ("validation", "training")):
            if read.keys().isdisjoint({name, other} - {"training"}):  # both were drawn from the same rows
                continue
            known, notes = without_known(
                [each.group for each in splits[other]], [each.group for each in splits[name]], name, other
            )
            splits[other] = [each for index, each in enumerate(splits[other]) if index not in known]
            self.notes += notes
        return splits

    def _documents(self, name: str, most: int | None = None) -> list[Document]:
        """The rows of a split for lm-eval; of more than `most` some from all over it, for it may be sorted by label."""
        rows = self._read_rows[name]
        if most is not None and len(rows) > most:
            rows = [rows[number * len(rows) // most] for number in range(most)]
        return [self.format.document(row, self.chat_template) for row, _ in rows]


def _answer(example: Example) -> str:
    """What is learned, as text."""
    return example.completion if isinstance(example.completion, str) else str(example.completion[-1]["content"])
