"""Keep the libraries' chatter off the terminal: what a person must know, this package says itself."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
from transformers.utils import logging as transformers_logging

_CHATTY = ("trl", "accelerate", "peft")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Only errors from transformers, TRL, PEFT and accelerate, no bars, and no warnings about their own future."""
    level = transformers_logging.get_verbosity()
    loggers = {name: logging.getLogger(name).level for name in _CHATTY}
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
            yield
    finally:
        transformers_logging.set_verbosity(level)
        for name, before in loggers.items():
            logging.getLogger(name).setLevel(before)
        if bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            transformers_logging.enable_progress_bar()
