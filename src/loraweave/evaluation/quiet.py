"""Keeps lm-eval's progress bars and log lines off the terminal, where one bar per run is enough."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOGGERS = ("lm_eval", "datasets", "evaluate", "transformers.generation", "httpx", "urllib3")


@contextmanager
def quiet() -> Iterator[None]:
    """Inside it no tqdm bar is drawn and the libraries' loggers say nothing below an error."""
    # The bars are drawn deep inside lm-eval, in places that take no switch; and the switch in the environment
    # is read once, when tqdm is imported.
    from tqdm import tqdm

    drawn = tqdm.__init__
    levels = {name: logging.getLogger(name).level for name in LOGGERS}

    def hidden(self: Any, *args: Any, **kwargs: Any) -> None:
        drawn(self, *args, **{**kwargs, "disable": True})

    tqdm.__init__ = hidden  # type: ignore[method-assign]
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        tqdm.__init__ = drawn  # type: ignore[method-assign]
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
