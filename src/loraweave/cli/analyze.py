"""`loraweave analyze`: what training changed, and a report of it."""

from pathlib import Path
from typing import Annotated

import typer

from loraweave.amounts import fixed
from loraweave.cli.output import console, errors, next_free, typed
from loraweave.cli.train import TrustCode


def analyze(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of finished runs, of comparisons (all their runs), or of adapters.",
            metavar="RUN [RUN …]",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="The folder to write, new or empty; by default the next free runs/analysis.")
    ] = None,
    full: Annotated[
        Path | None,
        typer.Option(help="Compare with a fully fine-tuned model too: a run, or a checkpoint of the same base."),
    ] = None,
    sample: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Show token routers N examples of each task, for typical tokens."),
    ] = 0,
    trust_code: TrustCode = False,
) -> None:
    """Analyse what training changed: spectra, overlap of runs, heads, routing, tasks against each other."""
    from rich.table import Table

    from loraweave import analysis
    from loraweave.analysis.analyze import check_free

    folder = output or next_free("analysis")
    check_free(folder)  # before the work, not after it
    with errors.status("reading") as status:
        found = analysis.analyze(
            runs, full=full, sample=sample, trust_code=trust_code, command=typed(), progress=status.update
        )
        status.update("drawing")
        path = analysis.save(found, folder)

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("run")
    table.add_column("method")
    for head in ("rank of ΔW", "effective rank", "top direction", "head similarity", "since the start"):
        table.add_column(head, justify="right")
    spread = {row["run"]: row for row in found["spectrum_summary"] if row["module"] == "all"}
    for run in found["runs"]:
        row = spread[run["name"]]
        most = max(len(e["singular_values"]) for e in found["spectra"] if e["run"] == run["name"])
        heads = [entry for entry in found["heads"] if entry["run"] == run["name"] and entry["matrix"] == "B"]
        alike = [entry["mean_similarity"] for entry in heads]
        learned = [entry["since_start"]["mean_similarity"] for entry in heads if entry["since_start"]]
        table.add_row(
            run["name"],
            run["method"],
            "–" if run["kind"] == "full" else str(most),
            f"{row['effective_rank']:.1f}",
            f"{row['top1']:.0%}",
            *(fixed(sum(values) / len(values), 2) if values else "–" for values in (alike, learned)),
        )
    console.print(table)
    for note in found["notes"]:
        console.print(f"note: {note}", style="dim", markup=False, soft_wrap=True)
    console.print(f"numbers  {path}", soft_wrap=True)
    console.print(f"report   {folder / 'report.html'}", soft_wrap=True)
