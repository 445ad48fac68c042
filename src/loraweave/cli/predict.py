"""`loraweave predict`: answers to the rows of a file, batch by batch, going on where it was interrupted."""

from pathlib import Path
from typing import Annotated

import typer

from loraweave.cli.output import console, errors
from loraweave.cli.train import TrustCode
from loraweave.errors import UserError

AT_ONCE = 64
"""Rows that are predicted together; a few batches of the model, so that a kill costs little."""


def predict(
    run: Annotated[
        Path, typer.Argument(help="A run, an adapter or an exported one.", metavar="RUN", show_default=False)
    ],
    task: Annotated[str, typer.Option(help="What is asked.", metavar="T", show_default=False)],
    file: Annotated[
        Path, typer.Option(help="Rows with the columns that the task reads: JSONL, CSV, Parquet.", show_default=False)
    ],
    output: Annotated[Path, typer.Option(help="JSON lines: each row with its prediction.", show_default=False)],
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="A task's file, for an adapter without its run; may be given several times."),
    ] = None,
    base: Annotated[str | None, typer.Option(help="The base's name or folder, in the place of its own.")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Predict every row of a file: labels ranked by likelihood, or text with the task's stop rules."""
    from rich.progress import Progress

    from loraweave.evaluation.loaded import load
    from loraweave.files import append_json_line, make_folder, read_json_lines, write_json_lines
    from loraweave.tasks.files import read_rows

    rows = [dict(row) for row in read_rows(file).rows]
    done = read_json_lines(output)
    if len(done) > len(rows) or any(line.get("row") != row for line, row in zip(done, rows, strict=False)):
        raise UserError(f"{output}: holds predictions of other rows than {file}; choose another output")
    loaded = load(run, base=base, tasks=tasks, trust_code=trust_code)
    loaded.task(task)
    make_folder(output.parent, "the folder of the predictions")
    write_json_lines(output, done)  # without the line that a kill may have torn
    with Progress(console=errors, transient=True) as bars:
        bar = bars.add_task(task, total=len(rows), completed=len(done))
        for start in range(len(done), len(rows), AT_ONCE):
            batch = rows[start : start + AT_ONCE]
            for row, found in zip(batch, loaded.predict(task, batch, first=start + 1), strict=True):
                append_json_line(output, {"row": row, **found})
            bars.update(bar, completed=start + len(batch))
    again = f", {len(done):,} of them before" if done else ""
    console.print(f"{len(rows):,} predictions{again}  {output}", markup=False, soft_wrap=True)
