"""What a task's file does to answers, which may be regular expressions: tried before an evaluation, and ended where
they do not come to an end by themselves."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from loraweave.errors import UserError, in_a_line

SECONDS = 5.0
"""Processor time for the answers to one step of a filter, and for one answer's metrics."""
EACH = 0.005
"""Of it, for each answer more."""


def bound_expressions(task: Any, what: str) -> None:
    """Bound the filters and metrics of a task of lm-eval; `what` names it in messages.

    Raises:
        UserError: a filter cannot be made, such as one whose expression is none.
    """
    for ensemble in getattr(task, "_filters", None) or ():
        named = f"{what}: the filter {ensemble.name!r}"
        try:
            made = [make() for make in ensemble.filters]
        except Exception as error:  # filters raise what they like
            raise UserError(f"{named} cannot be made: {in_a_line(error)}") from error
        if any(hasattr(each, "regex") for each in made):
            ensemble.apply = partial(_applied, ensemble.apply, named)
    for metric, options in (getattr(task, "_metric_fn_kwargs", None) or {}).items():
        if (options or {}).get("regexes_to_ignore"):
            task.process_results = partial(_scored, task.process_results, f"{what}: the metric {metric!r}")
            return


@contextmanager
def ended_after(seconds: float, what: str) -> Iterator[None]:
    """Processor time for a block. Python's engine of expressions heeds signals, and those reach the main thread alone:
    in another one, and where a system has no such signal, nothing ends it.

    Raises:
        UserError: it took longer; says that `what` does not come to an end.
    """

    def late(number: int, frame: Any) -> None:
        raise UserError(
            f"{what} does not come to an end on an answer; write its expression without repetition within repetition"
        )

    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _applied(apply: Callable[[Any], None], what: str, instances: Any) -> None:
    with ended_after(SECONDS + EACH * len(instances), what):
        apply(instances)


def _scored(score: Callable[..., Any], what: str, *arguments: Any, **named: Any) -> Any:
    with ended_after(SECONDS, what):
        return score(*arguments, **named)
