"""Long work says where it is, also while it is too busy to tell; short work says nothing."""

import re
from queue import Empty, Queue

import pytest

from loraweave.heartbeat import Heartbeat


def test_the_latest_words_come_again_and_again_while_the_work_goes_on():
    lines: Queue[str] = Queue()
    with Heartbeat(lines.put, every=0.01) as heart:
        heart.tell("reading, 1 of 9")
        assert re.fullmatch(r"reading, 1 of 9 \(0\.\d s\)", lines.get(timeout=10))
        assert lines.get(timeout=10).startswith("reading, 1 of 9")  # nothing new was told
        heart.tell("reading, 2 of 9")
        while not lines.get(timeout=10).startswith("reading, 2 of 9"):
            pass
        heart.tell("")
    while not lines.empty():
        lines.get()
    with pytest.raises(Empty):
        lines.get(timeout=0.05)


def test_short_work_and_work_that_told_nothing_say_nothing():
    lines: Queue[str] = Queue()
    with Heartbeat(lines.put) as heart:
        heart.tell("over at once")
    with Heartbeat(lines.put, every=0.01), pytest.raises(Empty):
        lines.get(timeout=0.05)
    assert lines.empty()


def test_an_error_passes_and_a_closed_pipe_does_not_stop_the_work():
    tried: Queue[str] = Queue()

    def closed(line: str) -> None:
        tried.put(line)
        raise BrokenPipeError

    def work() -> None:
        with Heartbeat(closed, every=0.01) as heart:
            heart.tell("writing")
            tried.get(timeout=10)
            tried.get(timeout=10)
            raise KeyError("the work's own")

    with pytest.raises(KeyError, match="the work's own"):
        work()
