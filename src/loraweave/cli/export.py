"""`loraweave export`: an adapter as something that others can load."""

from pathlib import Path
from typing import Annotated

import typer

from loraweave.cli.output import console, errors, path_given
from loraweave.cli.push import Push, send
from loraweave.cli.train import DataDir, TrustCode
from loraweave.errors import UserError


def export(
    run: Annotated[
        Path,
        typer.Argument(
            help="A finished run, or an adapter's folder.", metavar="RUN", show_default=False, callback=path_given
        ),
    ],
    to: Annotated[
        str,
        typer.Option(help="lora: a plain PEFT LoRA. merged: full weights. gguf: for llama.cpp.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option(help="The folder to write, new or empty.", show_default=False, callback=path_given)
    ],
    merged: Annotated[
        bool, typer.Option("--merged", help="With --to gguf: a whole model and no adapter beside one.")
    ] = False,
    task: Annotated[
        list[str] | None,
        typer.Option(help="Only for this task; may be given several times. All tasks by default.", metavar="NAME"),
    ] = None,
    uniform: Annotated[
        bool, typer.Option("--uniform", help="Where heads are weighed by the input, let all weigh alike.")
    ] = False,
    max_rank: Annotated[
        int | None, typer.Option(min=1, help="Truncate to this rank, in each layer to the nearest.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The base's name or folder, in the place of the one that the run names.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Held-out examples of each task on which a cost is measured.")
    ] = 128,
    data_dir: DataDir = None,
    push: Push = None,
    trust_code: TrustCode = False,
) -> None:
    """Turn an adapter into what others can load, exactly where the algebra allows it; what is not exact is measured."""
    from rich.table import Table

    from loraweave.export import export as export_adapter
    from loraweave.export.push import check_hub
    from loraweave.export.vllm import serve_line

    if merged and to != "gguf":
        raise UserError(f"--merged belongs to --to gguf, not to --to {to}")
    if push is not None:
        check_hub(push)
    made = export_adapter(
        run,
        "gguf-model" if merged else to,
        output,
        tasks=task or (),
        uniform=uniform,
        max_rank=max_rank,
        base=base,
        limit=limit,
        data_dir=data_dir,
        trust_code=trust_code,
        console=errors,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("task")
    for head in ("rank", "energy kept", "largest logit difference", "KL", "loss", "score"):
        table.add_column(head, justify="right")
    for each in made:
        for name, found in each.differences.items():
            cost = ["", "", ""]
            if not each.exact:
                scores = [f"{score['score']:.3g}" for score in each.scores.get(name, ())]
                cost = [f"{found.kl:.2g}", f"{found.loss[0]:.3f} → {found.loss[1]:.3f}", " → ".join(scores)]
            # Of what is not cut all is kept, and yet a router's mean weights are not what it does.
            kept = "exact" if each.exact else f"{each.kept:.2%}" if each.kept < 1 else ""
            table.add_row(name or "random tokens", str(each.rank or ""), kept, f"{found.largest:.1e}", *cost)
    console.print(table)
    for each in made:
        for note in each.notes:
            console.print(note, markup=False, soft_wrap=True)
        console.print(f"{to}  {each.path}", markup=False, soft_wrap=True)
    if all(each.is_for_vllm for each in made):
        modules, rank = {each.name: each.path for each in made}, max(each.rank or 1 for each in made)
        line = serve_line(made[0].base, modules, rank, made[0].revision)
        console.print(f"serve  {line}", markup=False, soft_wrap=True)
    if push is not None:
        send(output, push)
