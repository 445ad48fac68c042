"""The commands and how they end: what is wrong is said in one line, and the exit code says the rest."""

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from loraweave import __version__
from loraweave.cli import (
    analyze,
    assemble,
    chat,
    check,
    compare,
    evaluate,
    experts,
    export,
    init,
    launch,
    methods,
    predict,
    push,
    serve,
    tasks,
    train,
)
from loraweave.cli.net import OF_THE_SYSTEM, caught
from loraweave.cli.output import check_text, errors, quieten
from loraweave.errors import UserError, problems_of
from loraweave.stopping import Stopped, listening

USER_ERROR, FAULT, INTERRUPTED, STOPPED = 2, 70, 130, 143
LONGEST = 4000  # characters of a line that says what is wrong

app = typer.Typer(
    name="loraweave",
    help="One model, many tasks: multi-task low-rank adaptation, trained, evaluated and compared.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(tasks.app, name="tasks")
app.add_typer(experts.app, name="experts")
app.command("init")(init.init)
app.command("check")(check.check)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("chat")(chat.chat)
app.command("predict")(predict.predict)
app.command("compare")(compare.compare)
app.command("quickstart")(compare.quickstart)
app.command("serve")(serve.serve)
app.command("export")(export.export)
app.command("push")(push.push)
app.command("assemble")(assemble.assemble)
app.command("split")(assemble.split)
app.command("sparsify")(assemble.sparsify)
app.command("run", context_settings=launch.SETTINGS)(launch.launch)
app.command("analyze")(analyze.analyze)
app.command("methods")(methods.methods)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loraweave {__version__}")
        raise typer.Exit


@app.callback()
def _every_command(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", help="Let the libraries underneath log and warn.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if not verbose and context.invoked_subcommand != "run":  # which is somebody else's program
        quieten()


def main() -> None:
    """Run the command in `sys.argv` and exit.

    0: done. 1: something was done, but not all (a failed run in a comparison). 2: what the user gave is wrong; one
    line on stderr says what. 70: a fault that nobody foresaw; the line says where its traceback is. 130: interrupted.
    143: asked to end by SIGTERM; the line says how to go on.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that knows fewer letters than a name has
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    command = typer.main.get_command(app)
    try:
        check_text(arguments)
        with listening("stopped when it was asked to; what was finished is kept"):
            code = command.main(arguments, prog_name="loraweave", standalone_mode=False) or 0
        return _fail("interrupted", code) if code == INTERRUPTED else code
    except UserError as error:
        more = len(problems_of(error)) - 1
        return _fail(f"{error} (and {more:,} more; `loraweave check` lists all)" if more else str(error), USER_ERROR)
    except Stopped as stopped:
        return _fail(str(stopped), STOPPED, "")
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of the Rust underneath is no Exception
        name = type(error).__name__
        if name == "NoArgsIsHelpError":  # the help is on the screen already
            return USER_ERROR
        if hasattr(error, "format_message"):  # click's own errors know how to be told
            return _fail(error.format_message(), USER_ERROR)
        if isinstance(error, OSError) and error.errno in OF_THE_SYSTEM and error.filename:
            return _fail(f"{error.filename}: {error.strerror}", USER_ERROR)
        return _fail(caught(error, arguments), FAULT)


def _fail(message: str, code: int, what: str = "error: ") -> int:
    """Say what is wrong, or `what` else is to be said, in one line, however long a message a library made."""
    line = " ".join(message[: 2 * LONGEST].split())
    errors.print(f"{what}{line if len(line) <= LONGEST else line[:LONGEST] + '…'}", soft_wrap=True)
    return code
