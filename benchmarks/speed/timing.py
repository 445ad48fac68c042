"""Times of several subjects taken in turn, so that a busy machine is busy for all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def in_turn(
    subjects: Mapping[str, Callable[[], Any]], rounds: int = 9, least: float = 0.03, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds per call of each subject, one number a round: A B C, B C A, C A B, …

    Args:
        subjects: what to call.
        rounds: how often each is timed.
        least: seconds that one timing should take at least; quick subjects are called several times.
        warmup: calls before, untimed.
    """
    calls = {}
    for name, subject in subjects.items():
        for _ in range(warmup):
            subject()
        calls[name] = max(1, round(least / max(1e-9, _seconds(subject, 1))))
    names = list(subjects)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(_seconds(subjects[name], calls[name]))
    return times


def ratios(times: Mapping[str, list[float]], against: str) -> dict[str, dict[str, float]]:
    """Each subject's time over that of `against`, round by round: median, quartiles, and the time's median in ms."""
    result = {}
    for name, seconds in times.items():
        each = sorted(a / b for a, b in zip(seconds, times[against], strict=True))
        low, _, high = statistics.quantiles(each, n=4) if len(each) > 1 else (each[0],) * 3
        result[name] = {
            "ratio": round(statistics.median(each), 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "ms": round(1000 * statistics.median(seconds), 4),
        }
    return result


def _seconds(subject: Callable[[], Any], calls: int) -> float:
    _wait()
    start = time.perf_counter()
    for _ in range(calls):
        subject()
    _wait()
    return (time.perf_counter() - start) / calls


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
