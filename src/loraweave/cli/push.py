"""`loraweave push`: an adapter or an export to the Hugging Face hub; and what other commands have of it."""

from pathlib import Path
from typing import Annotated

import typer

from loraweave.cli.output import console, path_given

Push = Annotated[
    str | None,
    typer.Option("--push", metavar="REPO", help="Send it to the Hugging Face hub, OWNER/NAME."),
]


def push(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A run, an adapter, or an export.", metavar="FOLDER", show_default=False, callback=path_given
        ),
    ],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.", metavar="REPO", show_default=False)],
    private: Annotated[bool | None, typer.Option("--private/--public", help="Who sees a new repository.")] = None,
) -> None:
    """Send an adapter or an export to the Hugging Face hub, with its card."""
    send(folder, repo, private)


def send(folder: Path, repo: str, private: bool | None = None) -> None:
    """Send a folder, and say where it is now."""
    from loraweave.export.push import push as push_folder

    for each in push_folder(folder, repo, private):
        console.print(f"pushed    {each.url}", markup=False, soft_wrap=True)
        for note in each.notes:
            console.print(note, markup=False, soft_wrap=True, style="dim")
