"""`loraweave analyze`: what training changed, and a report of it."""

from pathlib import Path
from typing import Annotated

import typer

from loraweave.amounts import fixed
from loraweave.cli.output import console, errors, path_given, paths_given, typed
from loraweave.cli.train import TrustCode


def analyze(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of finished runs, of comparisons (all their runs), or of adapters.",
            metavar="RUN [RUN …]",
            show_default=False,
            callback=paths_given,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="The folder to write, new or empty; by default the next free runs/analysis.", callback=path_given
        ),
    ] = None,
    full: Annotated[
        Path | None,
        typer.Option(
            help="Compare with a fully fine-tuned model too: a run, or a checkpoint of the same base.",
            callback=path_given,
        ),
    ] = None,
    sample: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Show token routers N examples of each task, for typical tokens."),
    ] = 0,
    base: Annotated[
        str | None, typer.Option(help="The base's name or folder, in the place of the one that the runs name.")
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Analyse what training changed: spectra, overlap of runs, heads, routing, tasks against each other."""
    from rich.table import Table
    from rich.text import Text

    from loraweave import commands

    with errors.status("reading") as status:

        def say(words: str) -> None:
            status.update(Text(words))  # not a string, whose brackets would be markup

        found = commands.analyze(
            runs,
            output,
            full=full,
            sample=sample,
            base=base,
            trust_code=trust_code,
            command=typed(),
            progress=say,
        )

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("run")
    table.add_column("method")
    for head in ("rank of ΔW", "effective rank", "top direction", "head similarity", "since the start"):
        table.add_column(head, justify="right")
    for row in found.overview:
        table.add_row(
            row.run,
            row.method,
            "–" if row.rank is None else str(row.rank),
            "–" if row.effective_rank is None else f"{row.effective_rank:.1f}",
            "–" if row.top_share is None else f"{row.top_share:.0%}",
            *("–" if value is None else fixed(value, 2) for value in (row.head_similarity, row.learned_similarity)),
        )
    console.print(table)
    for note in found.notes:
        console.print(f"note: {note}", style="dim", soft_wrap=True)
    console.print(f"numbers  {found.folder / 'analysis.json'}", soft_wrap=True)
    console.print(f"report   {found.report}", soft_wrap=True)
