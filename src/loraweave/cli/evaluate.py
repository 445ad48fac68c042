"""`loraweave eval`: lm-eval over a finished run, task by task."""

from pathlib import Path
from typing import Annotated

import typer

from loraweave.cli.output import console, errors
from loraweave.cli.train import TrustCode
from loraweave.errors import UserError, nearest


def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", metavar="RUN", show_default=False)],
    tasks: Annotated[str | None, typer.Option(help="Only these, separated by commas.", metavar="A,B")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many test examples of each task.")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Score a finished run on its tasks and keep the result in its folder."""
    import torch
    from rich.progress import Progress
    from rich.table import Table

    from loraweave import evaluation
    from loraweave.comparison import words
    from loraweave.comparison.records import Spread
    from loraweave.evaluation.record import evaluation_settings, record
    from loraweave.runs.loading import load_run

    if (run / "results.json").is_file() and (run / "runs").is_dir():
        inside = next((run / "runs").iterdir(), run / "runs")
        raise UserError(f"{run} holds a comparison; name one of its runs, such as {inside}")
    loaded = load_run(run, trust_code=trust_code)
    chosen = _chosen(loaded.tasks, tasks)
    settings = loaded.config.eval.model_copy(update={"limit": limit} if limit else {})
    model = loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    with Progress(console=errors, transient=True) as bars:
        lines = {task.name: bars.add_task(task.name, total=None) for task in chosen}
        scores = evaluation.evaluate(
            model,
            loaded.tokenizer,
            chosen,
            **settings.model_dump(),
            seed=loaded.config.seed,
            progress=lambda name, done, of: bars.update(lines[name], completed=done, total=of),
        )
    results = run / "results.json"
    record(results, evaluation_settings(settings, chosen, loaded.config.seed), chosen, scores)

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("task")
    for head in ("score", "95 % interval", "examples"):
        table.add_column(head, justify="right")
    table.add_column("metric")
    for name, score in scores.items():
        value = words.score(Spread(mean=score["score"], interval=None), score["unit"])[0]
        ends = [
            words.score(Spread(mean=end, interval=None), score["unit"])[0] for end in evaluation.interval(score) or ()
        ]
        table.add_row(name, f"[bold]{value}[/]", " to ".join(ends), f"{score['n']:,}", words.metric(score))
    mean = evaluation.macro_average(scores)
    if mean is not None and len(scores) > 1:
        unit = words.mean_unit(scores)
        table.add_row("mean", words.score(Spread(mean=mean, interval=None), unit)[0], "", "", unit, style="dim")
    console.print(table)
    if mean is not None and (left_out := evaluation.left_out_of_mean(scores)):
        console.print(f"not in the mean, since not in percent: {', '.join(left_out)}", markup=False, soft_wrap=True)
    console.print(f"results  {results}", soft_wrap=True)


def _chosen(available: list, wanted: str | None) -> list:
    """The tasks of a run that are asked for, in the order asked."""
    if wanted is None:
        return available
    by_name = {task.name: task for task in available}
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if not names:
        raise UserError(f"--tasks {wanted!r}: name at least one of {', '.join(by_name)}")
    for name in names:
        if name not in by_name:
            raise UserError(f"the run has no task {name!r}{nearest(name, by_name)} (its tasks: {', '.join(by_name)})")
    return [by_name[name] for name in dict.fromkeys(names)]
