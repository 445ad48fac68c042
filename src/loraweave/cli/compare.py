"""`loraweave compare` and `loraweave quickstart`: methods side by side."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loraweave.cli.output import console, errors, names_given, typed
from loraweave.cli.train import Output, Overrides, Resume, RunFile, TrustCode
from loraweave.errors import UserError

if TYPE_CHECKING:
    from loraweave.comparison import Comparison
    from loraweave.runs.config import RunConfig

EXAMPLE_FILES, EXAMPLE_ROWS = ("topic", "quote"), 200
"""Tasks of the quickstart whose first rows become files to begin with."""
QUICKSTART_METHODS = ("lora", "multilora", "rlora")
SOME_RUNS_FAILED = 1


def compare(
    run_file: RunFile,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Names from `loraweave methods`, separated by commas; by default lora, the run file's own and, of "
            "several tasks, own: one LoRA for each.",
            metavar="A,B,C",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Whole numbers, separated by commas; by default 0, or those of what is gone on with.", metavar="0,1,2"
        ),
    ] = None,
    learning_rates: Annotated[
        str,
        typer.Option(
            help="Rates to choose from by validation loss; 0.5x is half of each method's own.", metavar="0.5x,1x,2x"
        ),
    ] = "",
    widen: Annotated[
        bool, typer.Option("--widen", help="Try rates beyond those given where the best is the lowest or the highest.")
    ] = False,
    search_steps: Annotated[
        str | None,
        typer.Option(
            help="Choose rates on shorter trainings, in rounds that halve the field, up to so many steps or to a share "
            "of a run's.",
            metavar="N|25%",
        ),
    ] = None,
    match_params: Annotated[
        bool, typer.Option("--match-params", help="Ranks such that all train as many parameters as the first.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(help="The method that the others are held against; lora by default.", metavar="NAME"),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="How much worse than the best a simpler method may be and still be taken; by default 1 point."
        ),
    ] = None,
    set_: Overrides = None,
    output: Output = None,
    resume: Resume = False,
    trust_code: TrustCode = False,
) -> None:
    """Train and evaluate several methods with several seeds on the same data.

    The untouched base is always shown. Fields of the run file's own method hold for that method alone. With
    --learning-rates each method is first trained at every rate with the first seed, and takes the best one.
    """
    from loraweave import comparison
    from loraweave.runs.config import RunConfig

    config = RunConfig.load(run_file, set_ or ())
    config.trust_code |= trust_code
    found = comparison.compare(
        config,
        None if methods is None else names_given(methods),
        None if seeds is None else _numbers(seeds),
        learning_rates=names_given(learning_rates),
        widen=widen,
        search_steps=search_steps,
        match_params=match_params,
        against=against,
        margin=margin,
        output=output,
        resume=resume,
        console=errors,
        command=typed(),
    )
    _show(found)


def quickstart(output: Output = None, resume: Resume = False) -> None:
    """Compare LoRA, MultiLoRA and R-LoRA on seven small tasks, with a base that ships in the package."""
    from loraweave import comparison
    from loraweave.runs.config import RunConfig
    from loraweave.runs.folder import next_free

    config = RunConfig.load(Path(__file__).parent.parent / "quickstart" / "run.yaml")
    folder = output or (_latest() if resume else next_free("quickstart"))
    found = comparison.compare(
        config, QUICKSTART_METHODS, [config.seed], output=folder, resume=resume, console=errors, command=typed()
    )
    _show(found, lambda: _go_on(found, config))


def _go_on(found: "Comparison", config: "RunConfig") -> None:
    """What to type next: talk to an adapter, export it, begin with files of one's own, of which some lie ready."""
    from loraweave.files import write_json_lines

    adapter = found.adapters.get((QUICKSTART_METHODS[0], config.seed))
    if adapter is None:
        return
    run, files = adapter.parent, found.folder / "files"
    tasks = {task.name: task for task in config.load_tasks()}
    for name in EXAMPLE_FILES if not files.exists() else ():
        files.mkdir(exist_ok=True)
        some = tasks[name].training_examples()[:EXAMPLE_ROWS]
        rows = [{"prompt": one.prompt, "completion": one.completion} for one in some]
        write_json_lines(files / f"{name}.jsonl", rows)
    console.print()
    console.print("Go on with:")
    for command in (
        ["loraweave", "chat", str(run), "--task", EXAMPLE_FILES[0]],
        ["loraweave", "export", str(run), "--to", "lora", "--output", str(found.folder / "lora")],
        ["loraweave", "init", str(files)],
    ):
        console.print(f"  {shlex.join(command)}", markup=False, soft_wrap=True)
    console.print("the last with files of your own in the place of those", style="dim")


def _show(found: "Comparison", close: Callable[[], None] = lambda: None) -> None:
    """Tables, recommendation and paths, and whatever closes them; the exit code says whether runs failed."""
    from loraweave import comparison

    results = found.results
    console.print()
    console.print(comparison.comparison_table(results, console.width))
    console.print()
    if results["differences"]:
        console.print(comparison.differences_table(results))
        console.print()
    console.print(comparison.recommendation(results))
    console.print()
    for adapter in found.adapters.values():
        console.print(f"adapter  {adapter}", soft_wrap=True)
    if found.elsewhere:
        runs = ", ".join(f"{method} seed {seed}" for method, seed in found.elsewhere)
        console.print(f"adapters of {runs}: not here, their records alone are", markup=False, soft_wrap=True)
    console.print(f"results  {found.folder / 'results.json'}", soft_wrap=True)
    console.print(f"page     {found.page}", soft_wrap=True)
    close()
    if found.failed:
        raise typer.Exit(SOME_RUNS_FAILED)


def _numbers(listed: str) -> list[int]:
    try:
        return [int(seed) for seed in names_given(listed)]
    except ValueError:
        raise UserError(f"--seeds {listed!r}: write whole numbers separated by commas, such as 0,1,2") from None


def _latest() -> Path:
    """The quickstart folder written last."""
    found = sorted(Path("runs").glob("quickstart*/results.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError("there is no quickstart in runs/ to go on with")
    return found[-1].parent
