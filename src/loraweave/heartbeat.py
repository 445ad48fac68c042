"""A line now and then while something long is under way where no bar is seen: in a log, silence looks like a hang."""

import contextlib
import time
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType

from loraweave.amounts import duration

EVERY = 15.0


class Heartbeat:
    """Inside it, a line every few seconds: the latest of what it was told, and for how long the work has gone on.

        with Heartbeat(print) as heart:
            for number, example in enumerate(examples):
                heart.tell(f"encoding, {number} of {len(examples)}")

    The lines come from a thread of their own, so also where the work does not get round to telling. Short work, and
    work that has told nothing yet, says nothing.

    Args:
        say: takes a line; for example a console's `print`, where that is no terminal. What cannot be written is lost.
        every: seconds between two lines.
    """

    def __init__(self, say: Callable[[str], object], every: float = EVERY) -> None:
        self.say = say
        self.every = every
        self._words = ""
        self._over = Event()
        self._thread: Thread | None = None
        self._started = 0.0

    def tell(self, words: str) -> None:
        """What is being done now; costs nothing, so it may be told at every step. Empty words: nothing to say."""
        self._words = words

    def start(self) -> None:
        """Begin; what `with` does, for work that begins and ends in two places."""
        self.stop()
        self._started = time.monotonic()
        self._over.clear()
        self._thread = Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; no line comes after it."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> "Heartbeat":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _beat(self) -> None:
        while not self._over.wait(self.every):
            if words := self._words:
                with contextlib.suppress(OSError, ValueError):  # a pipe or a file that has been closed
                    self.say(f"{words} ({duration(time.monotonic() - self._started)})")
