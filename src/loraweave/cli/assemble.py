"""`loraweave assemble`, `loraweave split` and `loraweave sparsify`: adapters made of adapters, without a base."""

from pathlib import Path
from typing import Annotated

import typer

from loraweave.cli.output import console, path_given
from loraweave.errors import UserError

Output = Annotated[Path, typer.Option(help="The folder to write, new or empty.", callback=path_given)]
Adapter = Annotated[Path, typer.Argument(help="An adapter's folder.", callback=path_given)]


def assemble(
    loras: Annotated[list[str], typer.Argument(metavar="NAME=LORA...", help="Folders or hub names of plain LoRAs.")],
    output: Output,
    gate: Annotated[
        str, typer.Option(help="own (one for each task), uniform (their mean) or token (a router).")
    ] = "own",
    base: Annotated[str | None, typer.Option(help="The base, where the LoRAs have other names for it.")] = None,
) -> None:
    """Make one adapter of several LoRAs of one base, exactly."""
    from loraweave.adapters.assemble import assemble

    named: dict[str, str] = {}
    for given in loras:
        name, equals, where = given.partition("=")
        if not (name and equals and where):
            raise UserError(f"{given!r}: give each LoRA as NAME=FOLDER")
        if name in named:
            raise UserError(f"{name!r} is named twice")
        named[name] = where
    folder = assemble(named, output, gate, base)  # type: ignore[arg-type]
    console.print(f"{folder}: {len(named)} heads, gate {gate}", markup=False, soft_wrap=True)


def split(adapter: Adapter, output: Output) -> None:
    """Write one plain LoRA for each task of an adapter that tells tasks apart."""
    from loraweave.adapters.assemble import split

    for task, folder in split(adapter, output).items():
        console.print(f"{task}: {folder}", markup=False, soft_wrap=True)


def sparsify(
    adapter: Adapter,
    output: Output,
    density: Annotated[float, typer.Option(help="Share of each head's B that is trained.")] = 0.1,
) -> None:
    """Start an adapter anew with most of its B held at zero (LoRI)."""
    from loraweave.adapters.sparse import sparsify

    console.print(f"{sparsify(adapter, density, output)}: trains {density:.0%} of B", markup=False, soft_wrap=True)
