"""`loraweave run -- PROGRAM`: any Python program with the method registered, so that it loads such adapters."""

import runpy
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from loraweave.errors import UserError, nearest

SETTINGS = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def launch(
    program: Annotated[
        list[str],
        typer.Argument(help="lm_eval ..., -m package ..., or script.py ...", metavar="-- PROGRAM", show_default=False),
    ],
) -> None:
    """Run a Python program with the method registered with PEFT: a command, `-m package`, or a script."""
    name, *rest = program
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # how it ends is that program's business
    if name == "-m":
        if not rest:
            raise UserError("-m: name a module, such as `loraweave run -- -m lm_eval`")
        sys.argv = rest
        with _its_own_errors():
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    sys.argv = program
    if Path(name).suffix == ".py":
        if not Path(name).is_file():
            raise UserError(f"{name}: no such file")
        sys.path[:] = [str(Path(name).resolve().parent), *sys.path]
        with _its_own_errors():
            runpy.run_path(name, run_name="__main__")
        return
    commands = {each.name: each for each in entry_points(group="console_scripts")}
    if name in commands:
        with _its_own_errors():
            sys.exit(commands[name].load()())
    found = shutil.which(name)
    if found is None or b"python" not in Path(found).read_bytes()[:200]:
        raise UserError(f"{name}: no Python program of that name{nearest(name, commands)}")
    with _its_own_errors():
        runpy.run_path(found, run_name="__main__")


@contextmanager
def _its_own_errors() -> Iterator[None]:
    """Inside it what a program fails of is told as Python tells it, with exit code 1: it is no fault of ours."""
    try:
        yield
    except Exception:
        traceback.print_exc()
        sys.exit(1)
