"""`loraweave experts …`: a library of plain LoRAs of one base, one for each task."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loraweave.cli.output import console, errors, path_given
from loraweave.cli.train import Overrides, RunFile, TrustCode
from loraweave.errors import UserError

if TYPE_CHECKING:
    from loraweave.experts.routing import Router

app = typer.Typer(help="One LoRA for each task of one base, which never touch each other.", no_args_is_help=True)

Library = Annotated[
    Path, typer.Argument(help="The library's folder.", metavar="LIBRARY", show_default=False, callback=path_given)
]
Threshold = Annotated[
    float | None, typer.Option(help="Cosine with the nearest description below which the base answers.")
]
Embedding = Annotated[
    str | None, typer.Option(help="A sentence-transformers model; the one that comes with the extra by default.")
]
Name = Annotated[str, typer.Argument(help="The expert's name.", metavar="NAME", show_default=False)]


@app.command("train")
def train(
    run_file: RunFile,
    library: Annotated[Path, typer.Option(help="The library's folder; made if it is not there.", callback=path_given)],
    set_: Overrides = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Only the expert of this task; may be given several times.", metavar="NAME")
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Experts with the same settings share a run, in mixed batches.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Pass over experts that are there, and go on with the others.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Take the places of experts of the same names.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Train one LoRA for each task of a run file, and add it to a library; no other expert is touched."""
    from loraweave.experts.config import ExpertsConfig
    from loraweave.experts.train import train_experts
    from loraweave.training.progress import ProgressBar

    config = ExpertsConfig.load(run_file, set_ or ())
    config.trust_code |= trust_code
    how: dict[str, Any] = {"together": together, "resume": resume, "replace": replace}
    added = train_experts(config, library, only=task, progress=ProgressBar(errors), console=errors, **how)
    for name, expert in added.items():
        console.print(f"{name}  {expert.folder}", markup=False, soft_wrap=True)


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
    prefix: Annotated[
        list[str] | None, typer.Option(help="How all that it is asked begins; may be given several times.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The base's name or folder, in the place of the one that the LoRA names.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of an expert of this name.")] = False,
) -> None:
    """Add a plain LoRA to a library, which is made if it is not there."""
    from loraweave.experts.library import ExpertLibrary

    there = ExpertLibrary.of_lora(library, lora, base)
    said: dict[str, Any] = {"description": description, "instructions": instruction or (), "prefixes": prefix or ()}
    expert = there.add(lora, name, **said, base=base, replace=replace)
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


@app.command("route")
def route(
    library: Library,
    instruction: Annotated[str, typer.Argument(help="What is asked.", metavar="TEXT", show_default=False)],
    threshold: Threshold = None,
    embedding: Embedding = None,
) -> None:
    """Say which expert a request goes to, and how near the next one is."""
    from loraweave.experts.manifest import BASE

    found = _router(library, threshold, embedding).route(instruction)
    said = f"{found.expert or BASE}  by {found.by}"
    if found.score is not None:
        said += f", score {found.score:.3f}"
    if found.margin is not None:
        said += f", margin {found.margin:.3f}"
    if found.expert is None and found.nearest is not None:
        said += f", nearest {found.nearest}"
    console.print(said, markup=False, soft_wrap=True)


@app.command("route-eval")
def route_eval(
    library: Library,
    run_file: RunFile,
    set_: Overrides = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Held-out prompts of each task; all by default.")] = None,
    threshold: Threshold = None,
    embedding: Embedding = None,
    trust_code: TrustCode = False,
) -> None:
    """Ask about the held-out prompts of a run file's tasks how often they come to their own expert."""
    from rich.table import Table

    from loraweave.experts.route_eval import route_eval as evaluate
    from loraweave.quiet import quiet_libraries
    from loraweave.runs.config import RunConfig

    config = RunConfig.load(run_file, set_ or ())
    config.trust_code |= trust_code
    router = _router(library, threshold, embedding)
    with quiet_libraries():
        found = evaluate(router, config.load_tasks(), limit)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("task")
    for head in ("right", "prompts", "margin"):
        table.add_column(head, justify="right")
    table.add_column("should go to")
    table.add_column("went to")
    table.add_column("by")
    for each in found:
        went = ", ".join(f"{name} {number}" for name, number in each.went.items())
        by = ", ".join(f"{way} {number}" for way, number in each.by.items())
        margin = "–" if each.margin is None else f"{each.margin:.3f}"
        table.add_row(each.task, f"{each.accuracy:.1%}", str(each.prompts), margin, each.right, went, by)
    console.print(table)
    total = sum(each.prompts for each in found)
    right = sum(each.accuracy * each.prompts for each in found)
    console.print(f"{right:.0f} of {total} prompts come to whom they should: {right / total:.1%}")


def _router(library: Path, threshold: float | None, embedding: str | None) -> "Router":
    """The router of a library, which embeds where descriptions are there to be near to."""
    from loraweave.experts.library import ExpertLibrary
    from loraweave.experts.routing import THRESHOLD, Router, default_embedding

    experts = list(ExpertLibrary(library).experts().values())
    described = any(expert.description.strip() or expert.instructions for expert in experts)
    embed = default_embedding(embedding) if described else None
    return Router(experts, embed, THRESHOLD if threshold is None else threshold)
