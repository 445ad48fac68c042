"""`loraweave experts …`: a library of plain LoRAs of one base, one for each task."""

from pathlib import Path
from typing import Annotated

import typer

from loraweave.cli.output import console, path_given
from loraweave.errors import UserError

app = typer.Typer(help="One LoRA for each task of one base, which never touch each other.", no_args_is_help=True)

Library = Annotated[
    Path, typer.Argument(help="The library's folder.", metavar="LIBRARY", show_default=False, callback=path_given)
]
Name = Annotated[str, typer.Argument(help="The expert's name.", metavar="NAME", show_default=False)]


@app.command("add")
def add(
    library: Library,
    lora: Annotated[
        str,
        typer.Argument(
            help="A finished run, a LoRA's folder, or its name on the hub.", metavar="LORA", show_default=False
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Of its task; the run's only task or the folder's name by default.")
    ] = None,
    description: Annotated[str, typer.Option(help="What its task is, in words: requests are routed by it.")] = "",
    instruction: Annotated[
        list[str] | None, typer.Option(help="An example of what it is asked; may be given several times.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The base's name or folder, in the place of the one that the LoRA names.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of an expert of this name.")] = False,
) -> None:
    """Add a plain LoRA to a library, which is made if it is not there."""
    from loraweave.experts.library import ExpertLibrary

    there = ExpertLibrary.of_lora(library, lora, base)
    expert = there.add(lora, name, description=description, instructions=instruction or (), base=base, replace=replace)
    console.print(f"{expert.name}  {expert.folder}", markup=False, soft_wrap=True)


@app.command("remove")
def remove(library: Library, name: Name) -> None:
    """Take an expert out of a library and remove its files."""
    from loraweave.experts.library import ExpertLibrary

    ExpertLibrary(library).remove(name)


@app.command("list")
def list_(library: Library) -> None:
    """Show the experts of a library."""
    from rich.table import Table

    from loraweave.amounts import count
    from loraweave.experts.library import ExpertLibrary

    there = ExpertLibrary(library)
    base = there.base
    console.print(f"base  {base['name']}  {base.get('fingerprint', '')}".rstrip(), markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("expert")
    for head in ("rank", "parameters", "score"):
        table.add_column(head, justify="right")
    table.add_column("description")
    for expert in there.experts().values():
        score = expert.scores.get(expert.name)
        said = "" if score is None else f"{score['score']:.3g} {score['unit']} {score['metric']}"
        table.add_row(expert.name, str(expert.rank), count(expert.parameters), said, expert.description)
    console.print(table)


@app.command("verify")
def verify(library: Library) -> None:
    """Read every file of a library and compare it with its hash."""
    from loraweave.experts.library import ExpertLibrary

    there = ExpertLibrary(library)
    faults = there.verify()
    for name, fault in faults.items():
        console.print(f"{name}: {fault}", markup=False, soft_wrap=True)
    if faults:
        raise UserError(f"{library}: not as it should be: {', '.join(faults)}")
    console.print(f"{library}: {len(there.experts())} experts, all as they were added", markup=False, soft_wrap=True)
