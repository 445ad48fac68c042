"""`loraweave eval`: lm-eval over a finished run, task by task."""

from pathlib import Path
from typing import Annotated

import typer

from loraweave.cli.output import console, errors, path_given
from loraweave.cli.train import TrustCode


def evaluate(
    run: Annotated[
        Path,
        typer.Argument(help="The folder of a finished run.", metavar="RUN", show_default=False, callback=path_given),
    ],
    tasks: Annotated[str | None, typer.Option(help="Only these, separated by commas.", metavar="A,B")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many test examples of each task.")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Score a finished run on its tasks and keep the result in its folder."""
    from rich.progress import Progress, TaskID
    from rich.table import Table
    from rich.text import Text

    from loraweave import commands, evaluation
    from loraweave.comparison import words
    from loraweave.comparison.records import Spread

    names = None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]
    bars, lines = Progress(console=errors, transient=True), dict[str, TaskID]()

    def show(name: str, done: int, of: int) -> None:
        if name not in lines:
            bars.start()
            lines[name] = bars.add_task(name, total=of)
        bars.update(lines[name], completed=done, total=of)

    try:
        found = commands.evaluate(run, tasks=names, limit=limit, trust_code=trust_code, progress=show)
    finally:
        if lines:
            bars.stop()

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("task")
    for head in ("score", "95 % interval", "examples"):
        table.add_column(head, justify="right")
    table.add_column("metric")
    for name, score in found.scores.items():
        value = words.score(Spread(mean=score["score"], interval=None), score["unit"])[0]
        ends = [
            words.score(Spread(mean=end, interval=None), score["unit"])[0] for end in evaluation.interval(score) or ()
        ]
        table.add_row(name, Text(value, style="bold"), " to ".join(ends), f"{score['n']:,}", words.metric(score))
    if found.mean is not None and len(found.scores) > 1:
        unit = words.mean_unit(found.scores)
        table.add_row("mean", words.score(Spread(mean=found.mean, interval=None), unit)[0], "", "", unit, style="dim")
    console.print(table)
    if found.mean is not None and found.left_out:
        console.print(
            f"not in the mean, since not in percent: {', '.join(found.left_out)}", markup=False, soft_wrap=True
        )
    console.print(f"results  {found.results}", soft_wrap=True)
