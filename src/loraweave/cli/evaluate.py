"""`loraweave eval`: lm-eval over a finished run, task by task, beside its untouched base."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loraweave.cli.bars import progress
from loraweave.cli.output import console, names_given, path_given, typed
from loraweave.cli.train import OtherBase, TrustCode

if TYPE_CHECKING:
    from rich.table import Table

    from loraweave.evaluation.beside import Beside

MARKS = {"win": ("▲ ", "green"), "loss": ("▼ ", "red"), "tie": ("", "")}


def evaluate(
    run: Annotated[
        Path,
        typer.Argument(
            help="The folder of a finished run, or of an adapter or a model by itself.",
            metavar="RUN",
            show_default=False,
            callback=path_given,
        ),
    ],
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Of a run only these, separated by commas. What is no run is scored on these: names or files.",
            metavar="A,B",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many test examples of each task.")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where a run's task and data files are now, by the paths that they had from its run file; or where "
            "the task files of what is no run look for their data.",
            callback=path_given,
        ),
    ] = None,
    base: OtherBase = None,
    no_base: Annotated[bool, typer.Option("--no-base", help="Do not score the untouched base beside it.")] = False,
    chat_template: Annotated[
        bool,
        typer.Option("--chat-template", help="Of what is no run: prompts go through the tokenizer's chat template."),
    ] = False,
    forgetting: Annotated[
        str | None,
        typer.Option(
            help="Score these too, which it was not trained for: tasks, text files, plain_english.",
            metavar="A,B",
        ),
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Score a finished run on its tasks, or an adapter on tasks that are named, and keep the result in its folder."""
    from rich.padding import Padding
    from rich.text import Text

    from loraweave import commands
    from loraweave.comparison.run_page import about, rows, untrained_rows

    names = None if tasks is None else names_given(tasks)
    things = (
        None
        if forgetting is None
        else [str(Path(x).resolve()) if Path(x).is_file() else x for x in names_given(forgetting)]
    )
    with progress("loading the run") as show:
        found = commands.evaluate(
            run,
            tasks=names,
            limit=limit,
            base=not no_base,
            data_dir=data_dir,
            base_model=base,
            chat_template=chat_template,
            forgetting=things,
            trust_code=trust_code,
            command=typed(),
            progress=show,
        )
    console.print(_table(found.beside, "task", rows(found.beside)))
    if (lost := found.beside.forgetting) is not None:
        console.print()
        console.print(_table(lost, "not trained for", untrained_rows(lost)))
    for note in [*about(found.beside), *found.notes]:
        console.print(Padding(Text(note, style="dim"), (0, 0, 0, 1)))
    for name, path in (("results", found.results), ("samples", found.samples), ("page", found.page)):
        console.print(f"{name:7}  {path}", soft_wrap=True)


def _table(found: "Beside", heading: str, shown: "list[dict[str, str]]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(heading)
    heads = ["score", "95 % interval"]
    heads += ["base", "difference"] if found.base else []
    heads += ["majority"] if found.majority else []
    for head in (*heads, "examples"):
        table.add_column(head, justify="right")
    table.add_column("metric")
    for row in shown:
        cells: list[str | Text] = [Text(row["score"], style="bold"), row["interval"]]
        if found.base:
            sign, style = MARKS[row["verdict"]]
            cells += [row["base"], Text(f"{sign}{row['difference']} {row['off']}".strip(), style=style)]
        cells += [row["majority"]] if found.majority else []
        table.add_row(row["task"], *cells, row["n"], row["metric"], style="dim" if row["total"] else "")
    return table
