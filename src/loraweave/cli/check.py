"""`loraweave check`: everything that is wrong with a run file and its data, at once."""

from typing import TYPE_CHECKING

import typer

from loraweave.cli.output import console
from loraweave.cli.train import Overrides, RunFile, TrustCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from loraweave.tasks.recognise import Recognised

PROBLEMS_FOUND = 1


def check(run_file: RunFile, set_: Overrides = None, trust_code: TrustCode = False) -> None:
    """Say everything that would stop a run: in its run file, its data, its task files and its base.

    No weights are read, nothing is downloaded, and nothing is trained. The exit code is 1 if anything is wrong.
    """
    from loraweave.estimate.check import check as look

    found = look(run_file, set_ or (), trust_code)
    if found.data:
        console.print(data_table(found.data))
        console.print()
    for line in found.problems:
        console.print(line, markup=False, soft_wrap=True, style="red")
    for line in found.unknown:
        console.print(f"not checked: {line}", markup=False, soft_wrap=True)
    for line in found.notes:
        console.print(f"note: {line}", markup=False, soft_wrap=True, style="dim")
    count = len(found.problems)
    console.print(f"{count or 'no'} problem{'s' * (count != 1)} found", style="bold")
    if found.problems:
        raise typer.Exit(PROBLEMS_FOUND)


def data_table(data: "Sequence[Recognised]") -> "Table":
    """What data files were taken for."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("task", "file", "taken for", "scored by"):
        table.add_column(head, overflow="fold")
    table.add_column("rows", justify="right")
    table.add_column("unusable", justify="right")
    for each in data:
        bad = sum(problem.number > 0 for problem in each.problems)
        cells = each.kind, each.format or "?", each.scored_by or "–"
        table.add_row(Text(each.name, style="bold"), *cells, f"{each.rows:,}", f"{bad:,}" if bad else "–")
    return table
