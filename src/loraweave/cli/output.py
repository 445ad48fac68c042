"""Where the commands print and write, what was typed, and the silence of the libraries underneath."""

import logging
import os
import shlex
import sys
import warnings

from rich.console import Console

# A file or a pipe has no width; most tables fit into this one.
WIDTH_OFF_TERMINAL = 120


def _console(stderr: bool) -> Console:
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH_OFF_TERMINAL)


console = _console(stderr=False)
errors = _console(stderr=True)

LIBRARIES = ("transformers", "datasets", "peft", "trl", "accelerate", "lm_eval", "torch", "huggingface_hub", "httpx")


def quieten() -> None:
    """Nothing from the libraries below an error, and no bars but ours."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore")
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)


def typed() -> str:
    """The command as it was typed, to keep with its results."""
    return shlex.join(["loraweave", *sys.argv[1:]])
