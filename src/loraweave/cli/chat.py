"""`loraweave chat`: talk to an adapter, task by task, with the base beside it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from loraweave.cli.output import console, errors, path_given
from loraweave.cli.train import OtherBase, TrustCode
from loraweave.errors import UserError

HELP = "/task NAME another task   /base the base's answer beside, on or off   /clear a new conversation   /quit"


def chat(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run, an adapter or an exported one.", metavar="RUN", show_default=False, callback=path_given
        ),
    ],
    task: Annotated[str | None, typer.Option(help="The task to begin with.", metavar="T")] = None,
    base: OtherBase = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 256,
    trust_code: TrustCode = False,
) -> None:
    """Talk to a trained adapter; answers appear as they are written."""
    from loraweave.evaluation.loaded import load

    loaded = load(run, base=base, trust_code=trust_code)
    if task is None and loaded.needs_tasks:
        task = loaded.tasks[0]
    if task is not None and loaded.tasks:
        loaded.check_task(task)
    console.print(f"tasks: {', '.join(loaded.tasks) or 'none named'}", markup=False, soft_wrap=True)
    console.print(HELP, style="dim", markup=False)
    _say_how(loaded, task)
    _converse(loaded, task, max_new_tokens)


def _say_how(loaded: Any, task: str | None) -> None:
    if not loaded.takes_chats(task):
        why = "trained on plain prompts" if loaded.tokenizer.chat_template else "no chat template"
        console.print(f"{why}: each line is a prompt by itself, \\n in it a new line", style="dim", markup=False)


def _converse(loaded: Any, task: str | None, longest: int) -> None:
    from rich.text import Text

    messages: list[dict[str, str]] = []
    beside = False
    while True:
        try:
            said = console.input(Text.assemble((f"{task or 'you'}>", "bold"), " ")).strip()
        except EOFError:
            return
        word, _, rest = said.partition(" ")
        if not said:
            continue
        if word in ("/quit", "/exit"):
            return
        if word == "/clear":
            messages = []
        elif word == "/base":
            beside = not beside
            console.print(f"the base's answer beside: {'on' if beside else 'off'}", style="dim")
        elif word == "/task":
            try:
                loaded.check_task(rest.strip())
            except UserError as error:
                errors.print(str(error), markup=False, soft_wrap=True)
                continue
            task, messages = rest.strip(), []
            _say_how(loaded, task)
        elif word.startswith("/"):
            console.print(HELP, style="dim", markup=False)
        else:
            try:
                _answer(loaded, task, said, messages, beside, longest)
            except UserError as error:  # such as a base that nobody knows the place of: the conversation goes on
                console.print()
                errors.print(str(error), markup=False, soft_wrap=True)


def _answer(
    loaded: Any, task: str | None, said: str, messages: list[dict[str, str]], beside: bool, longest: int
) -> None:
    """Print what the adapter answers, and the base before it where that is wanted; keeps the conversation."""
    chat = loaded.takes_chats(task)
    asked = {"role": "user", "content": said}
    prompt: Any = [*messages, asked] if chat else said.replace("\\n", "\n")
    if beside:
        console.print("base  ", style="dim", end="")
        for piece in loaded.stream(task, prompt, max_new_tokens=longest, adapter=False):
            console.print(piece, style="dim", end="", markup=False, highlight=False, soft_wrap=True)
        console.print()
    answer = ""
    for piece in loaded.stream(task, prompt, max_new_tokens=longest):
        answer += piece
        console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
    console.print()
    if chat:
        messages += [asked, {"role": "assistant", "content": answer}]
