"""Keep the libraries' chatter off the terminal: what a person must know, this package says itself."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

_CHATTY = (
    "trl",
    "accelerate",
    "peft",
    "lm_eval",
    "datasets",
    "evaluate",
    "transformers.generation",
    "httpx",
    "urllib3",
    "bitsandbytes",
    "torchao",
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside it: only errors from the libraries, no bars of transformers and datasets, and no warnings about the
    libraries' own future."""
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    verbosity = transformers_logging.get_verbosity()
    bars = not datasets.are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", category)
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
            # of PEFT, also where the key fits a weight that is no layer; keys that fit nothing are refused here
            warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            transformers_logging.enable_progress_bar()


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside it no tqdm bar is drawn: lm-eval draws bars in places that take no switch."""
    drawn = tqdm.__init__

    def hidden(self: Any, *args: Any, **kwargs: Any) -> None:
        drawn(self, *args, **{**kwargs, "disable": True})

    tqdm.__init__ = hidden  # type: ignore[method-assign]
    try:
        yield
    finally:
        tqdm.__init__ = drawn  # type: ignore[method-assign]
