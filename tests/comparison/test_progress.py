"""The display of a comparison: the run under way is in sight, however many there are."""

import io
import queue

import pytest
from rich.console import Console

from loraweave.comparison.display import ComparisonProgress


def shown(count: int, terminal: bool) -> tuple[list[int], str]:
    """How many bars were in sight during each of `count` runs, of which the second fails; and all that was printed."""
    out = io.StringIO()
    display = ComparisonProgress(
        [f"run {i}" for i in range(count)], Console(file=out, force_terminal=terminal, width=90)
    )
    in_sight = []
    with display:
        for i in range(count):
            run = display.run(f"run {i}")
            run.start("lora", 4)
            run.step(4, 0.5, 100.0)
            run.evaluated("sort", 1, 2)
            visible = [task.description for task in display.bars.tasks if task.visible]
            assert f"run {i}" in visible
            in_sight.append(len(visible))
            if i == 1:
                run.fail("the disk is full")
            else:
                run.finish(f"mean {i}.5")
    return in_sight, out.getvalue()


def test_few_runs_are_all_in_sight():
    assert shown(3, terminal=True)[0] == [3, 3, 3]


def test_of_many_only_some_are_and_those_that_are_over_leave_a_line():
    in_sight, printed = shown(40, terminal=True)
    assert max(in_sight) <= 5  # under way, the next three, all together
    assert "run 7: mean 7.5" in printed
    assert "run 1 failed: the disk is full" in printed


@pytest.mark.parametrize("count", [3, 40])
def test_a_log_file_has_a_line_for_every_end(count):
    _, printed = shown(count, terminal=False)
    lines = printed.splitlines()
    assert [line for line in lines if line.startswith("run 0:")] == [
        "run 0: step 4/4, loss 0.500, 100 tokens/s",
        "run 0: mean 0.5",
    ]
    assert [line for line in lines if line.startswith(("run 1:", "run 1 "))][-1] == "run 1 failed: the disk is full"
    assert "\x1b" not in printed


def test_a_long_evaluation_says_in_a_log_file_how_far_it_is():
    lines: queue.Queue[str] = queue.Queue()
    display = ComparisonProgress(["base"], Console(file=io.StringIO()))
    display.heart.every, display.heart.say = 0.01, lines.put
    with display:
        run = display.run("base")
        run.evaluated("sort", 3, 2000)
        assert lines.get(timeout=10).startswith("base: evaluating sort, 3 of 2,000 requests (0.")
        run.finish("mean 1.5")
