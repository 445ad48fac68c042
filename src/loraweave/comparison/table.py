"""The comparison on the terminal: methods down, tasks across, folded into several tables where it is too wide."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from loraweave import amounts
from loraweave.comparison import forgetting, words
from loraweave.comparison.records import BASE, MethodSummary, Results, Score, Spread
from loraweave.comparison.summary import best_methods, in_order, notes

LONGEST_HEAD = 10
WIDE_GAP, NARROW_GAP = 2, 1


class Column(NamedTuple):
    head: Text
    cells: list[Text]

    @property
    def width(self) -> int:
        lines = [line for text in (self.head, *self.cells) for line in text.plain.split("\n")]
        return max(len(line) for line in lines)


def comparison_table(results: Results, width: int) -> RenderableType:
    """The table and its notes for a terminal of `width` characters."""
    results = {**results, "summary": in_order(results["summary"], results["tasks"])}
    methods = Column(Text("method"), [_method(row) for row in results["summary"]])
    parts: list[RenderableType] = []
    scores, totals = _columns(results)
    left = width - methods.width
    # Columns close together only where that saves a second table.
    gap = next((gap for gap in (WIDE_GAP, NARROW_GAP) if _width([*scores, *totals], gap) <= left), WIDE_GAP)
    for group in _fold(scores, totals, left, gap):
        parts += [_table(methods, group, results["summary"], gap), ""]
    said = [*notes(results), *forgetting.notes(results)]
    parts += [Padding(Text(note, style="dim"), (0, 0, 0, 1)) for note in said]
    return Group(*parts)


def _columns(results: Results) -> tuple[list[Column], list[Column]]:
    """One column per task, and one for each thing that nothing was trained for; and the four that sum a method up."""
    summary, tasks = results["summary"], results["tasks"]
    best = best_methods(summary, tasks)
    seeds = max((row["finished"] for row in summary if row["method"] != BASE), default=0)
    columns = []
    for name, info in tasks.items():
        head = Text("\n").join([*(Text(line) for line in _lines(name)), Text(words.metric(info), style="dim")])
        values = [(_bare(row["scores"].get(name), seeds), row["method"] in best[name]) for row in summary]
        columns.append(Column(head, _cells(values, info["unit"])))
    for name, info in forgetting.things(results).items():
        lines = [*(Text(line) for line in _lines(name)), Text("forgetting"), Text(words.metric(info), style="dim")]
        found = [forgetting.cell(results, row["method"], name) for row in summary]
        columns.append(Column(Text("\n").join(lines), [_change(each) for each in found]))
    means = [(row["mean"], row["method"] in best[""]) for row in summary]
    totals = [Column(Text("mean"), _cells(means, words.mean_unit(tasks)))]
    for title, texts in (
        ("trainable\nparams", [amounts.count(row["trainable_parameters"] or None) for row in summary]),
        ("training\ntime", [amounts.duration(row["seconds"]) for row in summary]),
        ("peak\nmemory", [amounts.memory(row["peak_memory"]) for row in summary]),
    ):
        totals.append(Column(Text(title), [Text(text) for text in texts]))
    return columns, totals


def _bare(score: Score | None, seeds: int) -> Spread | None:
    """With one seed a task's score stands without its interval, for which there is no room beside that of the mean."""
    return Spread(mean=score["mean"], interval=None) if score is not None and seeds < 2 else score


def _fold(scores: Sequence[Column], totals: Sequence[Column], width: int, gap: int) -> Iterator[list[Column]]:
    """The columns in groups that fit beside each other in `width` characters, the totals together if they can be."""
    totals_fit = _width(totals, gap) <= width
    blocks = [[column] for column in scores] + ([list(totals)] if totals_fit else [[column] for column in totals])
    group: list[Column] = []
    used = 0
    for block in blocks:
        needed = _width(block, gap)
        if group and used + needed > width:
            yield group
            group, used = [], 0
        group += block
        used += needed
    yield group


def _width(columns: Sequence[Column], gap: int) -> int:
    return sum(gap + column.width for column in columns)


def _table(methods: Column, columns: Sequence[Column], summary: Sequence[MethodSummary], gap: int) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, gap - 1, 0, 0), header_style="", show_edge=False)
    table.add_column(methods.head, no_wrap=True, vertical="bottom")
    for column in columns:
        table.add_column(column.head, justify="right", no_wrap=True, vertical="bottom")
    for index, row in enumerate(summary):
        cells = [methods.cells[index], *(column.cells[index] for column in columns)]
        table.add_row(*cells, style="dim" if row["method"] == BASE else "")
    return table


def _method(row: MethodSummary) -> Text:
    name = Text(row["method"], style="bold")
    if row["failed"]:
        share = f" {row['finished']}/{row['finished'] + row['failed']}" if row["finished"] else " failed"
        name.append(share, style="red")
    return name


def _cells(values: Sequence[tuple[Spread | None, bool]], unit: str) -> list[Text]:
    """Means one below the other, their intervals too, the best in bold."""
    written = [words.score(value, unit) if value is not None else None for value, _ in values]
    widest = max((len(parts[1]) for parts in written if parts is not None), default=0)
    cells = []
    for parts, (_, best) in zip(written, values, strict=True):
        mean, interval = parts or ("–", "")
        cell = Text(mean, style="bold green" if best else "")
        if widest:
            cell.append(f" {interval.ljust(widest)}", style="not bold dim")
        cells.append(cell)
    return cells


def _change(found: forgetting.Cell) -> Text:
    """The base's score, or how far a method is off it."""
    text = Text(found.text, style={"win": "green", "loss": "red"}.get(found.verdict, ""))
    return text.append(f" {found.interval}", style="not bold dim") if found.interval else text


def _lines(name: str) -> list[str]:
    """A long task name in lines of at most `LONGEST_HEAD` characters, broken where names have joints."""
    lines = [""]
    for piece in re.findall(r"[^_\-./ ]+[_\-./ ]*|[_\-./ ]+", name):
        if lines[-1] and len(lines[-1]) + len(piece) > LONGEST_HEAD:
            lines.append("")
        lines[-1] += piece
    return lines
