"""`loraweave init`: a first run file for the files of a folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loraweave.cli.output import console, path_given

if TYPE_CHECKING:
    from loraweave.runs.draft import Draft


def init(
    folder: Annotated[
        Path, typer.Argument(help="With data files, tasks, perhaps a base.", metavar="[FOLDER]", callback=path_given)
    ] = Path(),
    model: Annotated[
        str | None, typer.Option(help="The base: a hub name, a folder, a .gguf file; one found there, or nano.")
    ] = None,
) -> None:
    """Look at the files of a folder and write a commented run.yaml for them, which is never written over."""
    import shlex

    from loraweave.errors import UserError
    from loraweave.files import write_text
    from loraweave.runs.draft import NAME, check_draft, draft

    path = folder / NAME
    if path.exists():
        raise UserError(f"{path}: is there already, and is not written over; rename it, or go on with it")
    found = draft(folder, model)
    check_draft(found)
    write_text(path, found.text)
    _show(found)
    console.print(f"run file  {path}", markup=False, soft_wrap=True)
    for name, options in (("check", ""), ("dry run", "--dry-run"), ("train", "")):
        words = ["loraweave", "check" if name == "check" else "train", str(path), *options.split()]
        console.print(f"{name:9} {shlex.join(words)}", markup=False, soft_wrap=True)


def _show(found: "Draft") -> None:
    from loraweave.cli.check import data_table

    seen = [task.seen for task in found.tasks if task.seen is not None]
    if seen:
        console.print(data_table(seen))
    for task in found.tasks:
        if task.seen is None:
            console.print(f"{task.entry['task']}: a task in lm-eval's format", markup=False, soft_wrap=True)
    for name, why in found.left.items():
        console.print(f"left out: {name}: {why}", markup=False, soft_wrap=True, style="dim")
    console.print()
