"""SIGTERM: it ends the process that listens with a line, and processes that were forked from it without one."""

import os
import signal
import time

import pytest

from loraweave.stopping import Stopped, listening


def test_the_process_that_listens_is_stopped() -> None:
    with listening("what is kept"), pytest.raises(Stopped, match="what is kept"):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_where_nothing_can_be_raised_is_not_lost() -> None:
    class Gone:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def work() -> None:
        Gone()
        time.sleep(10)

    with listening("what is kept"), pytest.raises(Stopped, match="what is kept"):
        work()


def test_a_process_that_is_forked_meanwhile_ends_of_the_signal() -> None:
    with listening("what is kept"):
        child = os.fork()
        if child == 0:
            try:
                time.sleep(30)
            finally:
                os._exit(3)  # whatever is raised here
        time.sleep(0.2)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    assert (os.WIFSIGNALED(status), os.WTERMSIG(status)) == (True, signal.SIGTERM)
