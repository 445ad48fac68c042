"""`loraweave train`: one adapter for all tasks of a run file."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from loraweave.cli.output import console, errors, path_given
from loraweave.cli.push import Push, send
from loraweave.errors import UserError

RunFile = Annotated[
    Path, typer.Argument(help="The run file.", metavar="RUN.YAML", show_default=False, callback=path_given)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Put a setting over the run file's, e.g. train.max_steps=100."),
]
Output = Annotated[
    Path | None, typer.Option(help="The folder to write; the run file's own by default.", callback=path_given)
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what the run would be: settings, counts, tasks, memory.")
]

Measure = Annotated[
    bool,
    typer.Option("--measure", help="With --dry-run: load the base and take a few steps, to say how long it takes."),
]

OtherBase = Annotated[str | None, typer.Option(help="The base's name or folder, in the place of its own.")]
TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Run Python functions that task files name, and code that comes with a base."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Where a run's task and data files are now, by the paths that they had from its run file.",
        callback=path_given,
    ),
]


def train(
    run_file: RunFile,
    set_: Overrides = None,
    output: Output = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    measure: Measure = False,
    push: Push = None,
    trust_code: TrustCode = False,
) -> None:
    """Train one adapter on all tasks of a run file."""
    from rich.table import Table

    from loraweave.export.push import check_hub
    from loraweave.runs.config import RunConfig
    from loraweave.runs.methods import choose_method
    from loraweave.runs.outlook import outlook
    from loraweave.training.progress import ProgressBar
    from loraweave.training.run import train as train_run

    config = RunConfig.load(run_file, set_ or ())
    config.trust_code |= trust_code
    if dry_run:
        from loraweave.cli.dry_run import show
        from loraweave.estimate.dry_run import dry_run as work_out
        from loraweave.estimate.timing import measure as take_steps

        found = work_out(config, output, errors)
        timing = take_steps(config, found.realised) if measure and found.trainable else None
        return show(found, timing) if found.args.process_index == 0 else None
    if measure:
        raise UserError("--measure belongs to --dry-run")
    if push is not None:
        check_hub(push)
    result = train_run(config, output, progress=ProgressBar(errors), console=console, resume=resume)
    if os.environ.get("RANK", "0") != "0":  # the processes of a launcher are one run
        return
    losses = last_losses(result.folder / "metrics.jsonl")
    if losses:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("task")
        for head in ("training loss", "validation loss"):
            table.add_column(head, justify="right")
        for task, (training, validation) in losses.items():
            table.add_row(task, *("–" if loss is None else f"{loss:.3f}" for loss in (training, validation)))
        console.print(table)
    console.print(
        f"{result.steps} steps in {result.seconds:.0f} s, {result.tokens_per_second:,.0f} tokens/s", style="dim"
    )
    if result.adapter is not None:
        console.print(f"adapter   {result.adapter}", soft_wrap=True)
    console.print(f"run       {result.folder}", soft_wrap=True)
    after = outlook(choose_method(config.method), _config_of(result.adapter))
    names = [row["task"] for row in result.mixture]
    for word, command in after.commands(str(result.folder), names, config.base.trust_code):
        console.print(f"{word:9} {command}", markup=False, soft_wrap=True)
    if after.why:
        console.print(after.why, markup=False, style="dim")
    if push is not None:
        send(result.folder, push)


def _config_of(adapter: Path | None) -> Any:
    """The configuration of what was trained, if that is an adapter."""
    from loraweave.adapters.config import NAME, read_config

    return read_config(adapter) if adapter is not None and (adapter / NAME).is_file() else None


def last_losses(metrics: Path) -> dict[str, tuple[float | None, float | None]]:
    """Per task, the last logged training and validation loss, in nats per completion token."""
    from loraweave.shapes import read_metrics

    last: dict[str, float] = {}
    for line in read_metrics(metrics):
        last.update(line)
    tasks = [key.removeprefix("loss/") for key in last if key.startswith("loss/")]
    return {task: (last.get(f"loss/{task}"), last.get(f"eval_loss/{task}")) for task in tasks}
