"""SIGTERM, by which clusters and services ask a program to end: nothing is lost, and a line says how to go on."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

GO_ON = "the same command with --resume goes on"
TWICE = 1.0
"""Seconds in which a second signal is the first one over again: a launcher passes on what its processes got too."""
AGAIN = 0.1
"""Seconds after which a signal is given again that came where nothing can be raised."""


class Stopped(BaseException):
    """The program was asked to end, and ends here; the message says what is saved and how to go on.

    Like KeyboardInterrupt it is no Exception: code that goes on after errors must not go on after this.
    """


@dataclass
class Request:
    """Whether the program was asked to end.

    Attributes:
        asked: it was, at a time when it was `held`.
        held: it ends by itself, soon; else it ends where it stands.
    """

    asked: bool = False
    held: bool = False

    @contextmanager
    def holding(self) -> Iterator[None]:
        """While the block runs, being asked is noted and nothing more."""
        self.held = True
        try:
            yield
        finally:
            self.held = False


@contextmanager
def listening(line: str) -> Iterator[Request]:
    """While the block runs, SIGTERM raises `Stopped(line)`, or is noted where it is `held`.

    Blocks may lie within one another: where the inner one came to its end all the same, the outer one is asked then.
    Signals reach the main thread alone; in others nothing changes. A process that is forked meanwhile, as libraries do
    for pools of workers, ends of the signal as any does.
    """
    request, raised, ours = Request(), -TWICE, os.getpid()
    again: threading.Timer | None = None

    def asked(number: int, frame: Any) -> None:
        nonlocal raised
        if os.getpid() != ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        request.asked = True
        if not request.held and time.monotonic() - raised >= TWICE:  # what is tidied up meanwhile is not disturbed
            raised = time.monotonic()
            raise Stopped(line)

    def lost(found: Any) -> None:
        """Python drops what is raised in the callback of a weak reference or in `__del__`."""
        nonlocal raised, again
        if isinstance(found.exc_value, Stopped):
            raised, again = -TWICE, threading.Timer(AGAIN, os.kill, (ours, signal.SIGTERM))
            again.start()
        else:
            hook(found)

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before, hook = signal.signal(signal.SIGTERM, asked), sys.unraisablehook
    sys.unraisablehook = lost
    try:
        yield request
    finally:
        if again is not None:
            again.cancel()
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook
    if request.asked and callable(before):
        before(signal.SIGTERM, None)
