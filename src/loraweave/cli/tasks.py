"""`loraweave tasks`: which tasks there are, and what one looks like to the model."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from loraweave.cli.output import console, errors
from loraweave.cli.train import TrustCode
from loraweave.paths import user_path

if TYPE_CHECKING:
    from loraweave.bases.spec import BaseName
    from loraweave.data.preview import Summary, Token
    from loraweave.tasks import Task

app = typer.Typer(no_args_is_help=True, help="Look at tasks: what there is, and what the model will read and write.")

NameOrFile = Annotated[
    str, typer.Argument(help="An lm-eval name, a task YAML, data in any known format, or a run file: all its tasks.")
]
TOKENS_BEFORE = 12
"""How many of a prompt's tokens are shown one by one."""
TOKENS_LEARNED = 200
"""How many of those that are learned, at most."""

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
    lines = (item.name if item.kind == "task" else f"{item.name}  ({item.kind})" for item in found)
    typer.echo("".join(f"{line}\n" for line in lines), nl=False)
    errors.print(f"{len(found):,} found", style="dim")


@app.command()
def show(name: NameOrFile, data_dir: DataDir = None, trust_code: TrustCode = False) -> None:
    """Show where a task comes from, how it is scored, how large it is, and its prompt."""
    from loraweave.data.preview import summarise

    for task in _load(name, data_dir, False, trust_code).tasks:
        console.print(_at_a_glance(task, summarise(task)))


@app.command()
def preview(
    file: NameOrFile,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many examples.")] = 3,
    model: Annotated[
        str | None,
        typer.Option(help="The base whose tokenizer is used: nano, a folder or a hub name.", show_default="nano"),
    ] = None,
    data_dir: DataDir = None,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="Through the tokenizer's template.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Show what a task was taken for, how its rows are shared out, and its first examples as the model reads them, with
    the tokens that are learned and those before them."""
    from loraweave.bases import load_tokenizer
    from loraweave.data.preview import preview as previews
    from loraweave.data.preview import summarise
    from loraweave.tasks.template import FOLDED, folding_tasks

    meant = _load(file, data_dir, chat_template, trust_code)
    tokenizer = load_tokenizer(model or meant.base, trust_code)
    for task in meant.tasks:
        examples = previews(task, tokenizer, count, meant.max_length)
        console.print(_at_a_glance(task, summarise(task)))
        for note in task.notes:
            errors.print(f"{task.name}: {note}", markup=False, soft_wrap=True)
        for number, shown in enumerate(examples, start=1):
            console.print(Rule(Text(f"{task.name}, example {number}", style="bold"), align="left", style="dim"))
            console.print(_row(shown.tokens))
            trained = [token for token in shown.tokens if token.trained]
            read = [token for token in shown.tokens if not token.trained]
            console.print(_listed("reads ", read[-TOKENS_BEFORE:], cut=len(read) > TOKENS_BEFORE))
            console.print(_listed("learns", trained[:TOKENS_LEARNED], more=len(trained) - TOKENS_LEARNED))
            console.print(f"{len(shown.tokens)} tokens, {len(trained)} of them with loss", style="dim")
        known = task.training_examples() if task.trainable else task.test_examples()
        if folding_tasks(tokenizer, [(task.name, known)]):
            errors.print(FOLDED.format(task.name), markup=False, soft_wrap=True)


class _Meant(NamedTuple):
    """Tasks, and what to show them with: a base, and the tokens that a row holds at most."""

    tasks: "list[Task]"
    base: "BaseName"
    max_length: int


def _load(name: str, data_dir: str | None, chat_template: bool, trust_code: bool) -> _Meant:
    """The tasks that are meant."""
    from loraweave.runs.config import RunConfig, is_run_file
    from loraweave.runs.settings import DEFAULTS
    from loraweave.tasks import load_tasks

    longest = int(DEFAULTS["max_length"])
    if is_run_file(name):
        config = RunConfig.load(name)
        changes = {
            "trust_code": config.trust_code or trust_code,
            "chat_template": config.chat_template or chat_template,
            "data_dir": config.data_dir if data_dir is None else str(user_path(data_dir).resolve()),
        }
        config = config.model_copy(update=changes)
        return _Meant(config.load_tasks(), config.base, config.train.get("max_length", longest))
    found = load_tasks([name], Path.cwd(), data_dir, chat_template, trust_code=trust_code)
    return _Meant(found, "nano", longest)


def _at_a_glance(task: "Task", summary: "Summary") -> Table:
    """Where a task comes from, what it was taken for, how it is scored and how large it is."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("task", Text(summary.name, style="bold"))
    table.add_row("from", Text(summary.origin))
    if summary.format:
        table.add_row("format", Text(summary.format))
    table.add_row("scored by", Text(f"{', '.join(summary.metrics)} ({summary.output_type})"))
    table.add_row("examples", ", ".join(f"{count:,} {split}" for split, count in summary.splits.items()))
    for field, template in summary.templates.items():
        table.add_row(field, Text(json.dumps(template, ensure_ascii=False)))
    return table


def _row(tokens: Iterable["Token"]) -> Text:
    """The row as text: of its tokens, so nothing is shown that is not there."""
    text = Text()
    for token in tokens:
        text.append(token.text, style="bold green" if token.trained else None)
    return text


def _listed(what: str, tokens: Sequence["Token"], cut: bool = False, more: int = 0) -> Text:
    """Tokens one by one, quoted; by number those that end within a character. `cut`: others stand before them; `more`:
    so many behind."""
    text = Text(f"{what}  {'… ' if cut else ''}", style="dim")
    for token in tokens:
        text.append(repr(token.text) if token.text else f"#{token.id}", style="bold green" if token.trained else None)
        text.append(" ")
    if more > 0:
        text.append(f"… {more:,} more", style="dim")
    return text
