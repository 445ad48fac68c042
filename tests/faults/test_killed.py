"""A run that is killed, at whatever moment, goes on to the very weights of one that is not."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from faults.victims import LENGTHS, METHODS, Victims, differences
from few import few

Count = Callable[[str, str], None]

KINDS = [(method, schedule, length) for method in METHODS for schedule in ("cosine", "constant") for length in LENGTHS]
FEW = [
    ("lora", "cosine", "whole"),
    ("rlora", "constant", "broken"),
    ("mtllora", "cosine", "broken"),
    ("full", "constant", "whole"),
]
MOMENTS = 5
EVENTS = 5
PARTS = 10
"""In which long tests are run, so that they may be stopped between two."""


def survives(victims: Victims, count: Count, kind: tuple[str, str, str], fault: str, **how: Any) -> None:
    """Kill a run, go on with it, and hold what it comes to against one that was let be."""
    whole, config, _, _ = victims.whole(*kind)
    folder = victims.empty("killed")
    first = victims.order("train", folder, config, **how)
    again = victims.order("train", folder, config, resume=True)
    finished = again.get("ended") == "refused" and "the run in this folder is finished" in again["line"]
    outcome = "already finished" if finished else f"resumed {again['ended']}"
    assert finished or again["ended"] == "well", (kind, how, first, again)
    found = differences(folder, whole)
    assert found == [], (kind, how, first, again)
    count(fault, outcome)


@pytest.mark.parametrize("kind", few(FEW, []), ids=" ".join)
def test_twenty_kills_of_twenty(victims: Victims, count: Count, kind: tuple[str, str, str]) -> None:
    at_random_moments(victims, count, kind, MOMENTS)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_killed_at_random_moments(victims: Victims, count: Count, kind: tuple[str, str, str]) -> None:
    at_random_moments(victims, count, kind, 2 * MOMENTS)


def at_random_moments(victims: Victims, count: Count, kind: tuple[str, str, str], times: int) -> None:
    """Kill a run so many times."""
    rng = random.Random(f"{kind} {times}")
    seconds = victims.whole(*kind)[3]
    for _ in range(times):
        survives(victims, count, kind, "SIGKILL at a random moment", kill_after=rng.uniform(0, seconds))


def test_killed_at_some_events(victims: Victims, count: Count) -> None:
    events = victims.whole()[2]
    for number in range(1, 2 * EVENTS, 2):
        kill_at = events * number // (2 * EVENTS)
        survives(victims, count, ("rlora", "cosine", "broken"), "SIGKILL at an event", kill_at=kill_at)


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", [("rlora", "cosine", "broken"), ("full", "constant", "whole")], ids=" ".join)
def test_killed_at_every_event(victims: Victims, count: Count, kind: tuple[str, str, str], part: int) -> None:
    for event in range(part, victims.whole(*kind)[2], PARTS):
        survives(victims, count, kind, "SIGKILL at an event", kill_at=event)


def test_killed_again_and_again(victims: Victims, count: Count) -> None:
    """Each time a little later, until it is through."""
    whole, config, events, _ = victims.whole()
    folder = victims.empty("killed")
    ends = []
    for times in range(8):
        answer = victims.order("train", folder, config, resume=times > 0, kill_at=events * 2 // 5)
        ends.append(answer.get("ended", "killed"))
        if ends[-1] == "well":
            break
    assert ends[0] == "killed", ends
    assert ends[-1] == "well", ends
    assert differences(folder, whole) == []
    count("SIGKILL again and again in one run", "resumed well")


def test_asked_to_end(victims: Victims, count: Count) -> None:
    whole, config, _, seconds = victims.whole()
    folder = victims.empty("asked")
    answer = victims.order("train", folder, config, kill_after=seconds * 0.6, ask=True)
    assert answer["ended"] in ("stopped", "well"), answer
    if answer["ended"] == "stopped":
        assert "--resume goes on" in answer["line"]
        assert victims.order("train", folder, config, resume=True)["ended"] == "well"
    assert differences(folder, whole) == []
    count("SIGTERM", "saved and resumed well")


@pytest.mark.long
def test_a_killed_comparison_goes_on(victims: Victims, count: Count) -> None:
    config = victims.config(length="broken")
    whole, folder = victims.empty("comparison"), victims.empty("killed-comparison")
    answer = victims.order("compare", whole, config)
    assert answer["ended"] == "well", answer
    for share in (0.1, 0.5, 0.9):
        victims.order("compare", folder, config, resume=folder.exists(), kill_at=int(answer["events"] * share * 0.6))
    again = victims.order("compare", folder, config, resume=(folder / "results.json").exists())
    assert again["ended"] == "well", again
    assert again["runs"] == answer["runs"]
    for run in ("lora-seed0", "rlora-seed0"):
        assert differences(folder / "runs" / run, whole / "runs" / run) == []
    count("SIGKILL in a comparison", "resumed well")
