"""Where the commands print and write, what was typed, and the silence of the libraries underneath."""

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loraweave.errors import Notice, UserError, shown
from loraweave.paths import user_path
from loraweave.terminal import plain_console

console = plain_console()
errors = plain_console(stderr=True)

LIBRARIES = tuple(
    "transformers datasets peft trl accelerate lm_eval torch huggingface_hub httpx bitsandbytes torchao".split()
)


def check_text(arguments: Sequence[str]) -> None:
    """Raise UserError for an argument that is no UTF-8 text: it could be kept in no file of a run."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"the argument {shown(argument)} is not UTF-8 text; rename what it names") from None


def path_given(path: Path | None) -> Path | None:
    """A path of the command line, found to be possible; for `typer.Option(callback=…)`."""
    return None if path is None else user_path(path)


def paths_given(paths: list[Path]) -> list[Path]:
    """Several; see `path_given`."""
    return [user_path(path) for path in paths]


def names_given(listed: str) -> list[str]:
    """The names of an option that takes several, separated by commas."""
    return [name.strip() for name in listed.split(",") if name.strip()]


def quieten() -> None:
    """Nothing from the libraries below an error, and no bars but ours."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore")
    warnings.simplefilter("once", Notice)
    warnings.showwarning = _told  # type: ignore[assignment]  # takes what it is given
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)


def _told(message: Warning | str, *where: Any) -> None:
    """A warning without file and line; what is not ours is not let through."""
    errors.print(f"note: {message}", soft_wrap=True)


def typed() -> str:
    """The command as it was typed, to keep with its results."""
    return shlex.join(["loraweave", *sys.argv[1:]])
