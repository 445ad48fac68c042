"""SIGTERM: it ends the process that listens with a line, and processes that were forked from it without one."""

import os
import signal
import time

import pytest

from loraweave.stopping import Stopped, listening


def test_the_process_that_listens_is_stopped() -> None:
    with listening("what is kept"), pytest.raises(Stopped, match="what is kept"):
        signal.raise_signal(signal.SIGTERM)


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
