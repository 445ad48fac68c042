"""`loraweave predict`: answers to the rows of a file, batch by batch, going on where it was interrupted."""

from pathlib import Path
from typing import Annotated

import typer

from loraweave.cli.bars import progress
from loraweave.cli.output import console, path_given
from loraweave.cli.train import DataDir, OtherBase, TrustCode


def predict(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run, an adapter or an exported one.", metavar="RUN", show_default=False, callback=path_given
        ),
    ],
    task: Annotated[str, typer.Option(help="What is asked.", metavar="T", show_default=False)],
    file: Annotated[
        Path,
        typer.Option(
            help="Rows with the columns that the task reads: JSONL, CSV, Parquet.",
            show_default=False,
            callback=path_given,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(help="JSON lines: each row with its prediction.", show_default=False, callback=path_given),
    ],
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="A task's file, for an adapter without its run; may be given several times."),
    ] = None,
    data_dir: DataDir = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="For --tasks: prompts go through the tokenizer's chat template.")
    ] = False,
    base: OtherBase = None,
    trust_code: TrustCode = False,
) -> None:
    """Predict every row of a file: labels ranked by likelihood, or text with the task's stop rules."""
    from loraweave.evaluation.loaded import load
    from loraweave.evaluation.predictions import predict_file
    from loraweave.tasks.files import read_rows
    from loraweave.tasks.messages import without_filling

    read = read_rows(file)
    rows = [without_filling(row) if read.filled else dict(row) for row in read.rows]
    with progress("loading the model") as show:
        loaded = load(
            run, base=base, tasks=tasks, data_dir=data_dir, chat_template=chat_template, trust_code=trust_code
        )
        before = predict_file(loaded, task, rows, output, lambda done, of: show(task, done, of))
    again = f", {before:,} of them before" if before else ""
    console.print(f"{len(rows):,} predictions{again}  {output}", markup=False, soft_wrap=True)
