"""`loraweave tasks`: which tasks there are, and what one looks like to the model."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from loraweave.cli.output import console, errors
from loraweave.cli.train import TrustCode

if TYPE_CHECKING:
    from loraweave.data.preview import Token
    from loraweave.tasks import Task

app = typer.Typer(no_args_is_help=True, help="Look at tasks: what there is, and what the model will read and write.")

NameOrFile = Annotated[str, typer.Argument(help="An lm-eval name, a task YAML, or a .jsonl or .parquet file.")]
TOKENS_BEFORE = 12
"""How many of a prompt's tokens are shown one by one."""

DataDir = Annotated[str | None, typer.Option(help="Where the YAML's relative data files are.")]


@app.command("list")
def list_all(
    pattern: Annotated[str | None, typer.Argument(help="Part of a name, or a glob such as 'mmlu_*'.")] = None,
    folder: Annotated[list[str] | None, typer.Option(help="List the YAML files of this folder instead.")] = None,
) -> None:
    """List the tasks that a run file can name: all that lm-eval ships, some thousands."""
    from loraweave.data.preview import list_tasks

    with errors.status("reading lm-eval's index"):
        found = list_tasks(pattern, folders=folder or (), builtin=not folder)
    # Plain lines at once: Rich takes some ten seconds to lay out fourteen thousand.
    typer.echo("\n".join(item.name if item.kind == "task" else f"{item.name}  ({item.kind})" for item in found))
    errors.print(f"{len(found):,} found", style="dim")


@app.command()
def show(name: NameOrFile, data_dir: DataDir = None, trust_code: TrustCode = False) -> None:
    """Show where a task comes from, how it is scored, how large it is, and its prompt."""
    from loraweave.data.preview import summarise

    for task in _load(name, data_dir, False, trust_code):
        summary = summarise(task)
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        table.add_row("task", Text(summary.name, style="bold"))
        table.add_row("from", Text(summary.origin))
        table.add_row("scored by", Text(f"{', '.join(summary.metrics)} ({summary.output_type})"))
        table.add_row("examples", ", ".join(f"{count:,} {split}" for split, count in summary.splits.items()))
        for field in ("doc_to_text", "doc_to_choice", "doc_to_target"):
            template = getattr(task.lm_eval.config, field) if task.lm_eval is not None else None
            if template is not None:
                table.add_row(field, Text(str(template)))
        console.print(table)


@app.command()
def preview(
    file: NameOrFile,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many examples.")] = 3,
    model: Annotated[
        str, typer.Option(help="The base whose tokenizer is used: nano, a folder or a hub name.")
    ] = "nano",
    data_dir: DataDir = None,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="Through the tokenizer's template.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Show a task's first examples as the model reads them, with the tokens that are learned and those before them."""
    from loraweave.bases import load_tokenizer
    from loraweave.data.preview import preview as previews
    from loraweave.tasks.template import FOLDED, folding_tasks

    tokenizer = load_tokenizer(model, trust_code)
    for task in _load(file, data_dir, chat_template, trust_code):
        for number, shown in enumerate(previews(task, tokenizer, count), start=1):
            console.print(Rule(Text(f"{task.name}, example {number}", style="bold"), align="left", style="dim"))
            console.print(_row(shown.tokens))
            trained = [token for token in shown.tokens if token.trained]
            read = [token for token in shown.tokens if not token.trained]
            console.print(_listed("reads ", read[-TOKENS_BEFORE:], cut=len(read) > TOKENS_BEFORE))
            console.print(_listed("learns", trained))
            console.print(f"{len(shown.tokens)} tokens, {len(trained)} of them with loss", style="dim")
        examples = task.training_examples() if task.trainable else task.test_examples()
        if folding_tasks(tokenizer, [(task.name, examples)]):
            errors.print(FOLDED.format(task.name), markup=False, soft_wrap=True)


def _load(name: str, data_dir: str | None, chat_template: bool, trust_code: bool) -> "list[Task]":
    from loraweave.tasks import load_tasks

    return load_tasks(
        [name], base_dir=Path.cwd(), data_dir=data_dir, chat_template=chat_template, trust_code=trust_code
    )


def _row(tokens: Iterable["Token"]) -> Text:
    """The row as text: of its tokens, so nothing is shown that is not there."""
    text = Text()
    for token in tokens:
        text.append(token.text, style="bold green" if token.trained else None)
    return text


def _listed(what: str, tokens: Iterable["Token"], cut: bool = False) -> Text:
    """Tokens one by one, quoted; by number those that end within a character."""
    text = Text(f"{what}  {'… ' if cut else ''}", style="dim")
    for token in tokens:
        text.append(repr(token.text) if token.text else f"#{token.id}", style="bold green" if token.trained else None)
        text.append(" ")
    return text
