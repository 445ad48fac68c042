"""A mixture is exactly what was asked for, in every epoch, and the same for the same seed."""

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from loraweave.data.mixture import Mixture, MixtureConfig, realised_table
from loraweave.errors import UserError


def lengths(**sizes: int) -> dict[str, list[int]]:
    draw = np.random.default_rng(0)
    return {name: draw.integers(3, 40, size).tolist() for name, size in sizes.items()}


def counts(mixture: Mixture, epoch: int) -> list[int]:
    drawn = Counter(task for task, _ in mixture.epoch(epoch))
    return [drawn[task] for task in range(len(mixture.names))]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [100, 50, 10]),
        ({"strategy": "equal"}, [54, 53, 53]),
        ({"strategy": "equal", "total": 30}, [10, 10, 10]),
        ({"strategy": "capped", "cap": 40}, [40, 40, 10]),
        ({"strategy": "temperature", "temperature": 1}, [100, 50, 10]),
        ({"strategy": "temperature", "temperature": 1e9, "total": 9}, [3, 3, 3]),
        ({"strategy": "temperature", "temperature": 2, "total": 1000}, [494, 350, 156]),
        ({"strategy": "weights", "weights": {"a": 3, "b": 1, "c": 0}, "total": 8}, [6, 2, 0]),
        ({"strategy": "weights", "weights": {"a": 1, "b": 1, "c": 0}}, [75, 75, 0]),
    ],
)
def test_quotas_are_exact(config: dict[str, Any], expected: list[int]) -> None:
    mixture = Mixture.build(lengths(a=100, b=50, c=10), MixtureConfig(**config))
    for epoch in range(3):
        assert counts(mixture, epoch) == expected


def test_every_example_is_seen_before_one_repeats_across_epochs() -> None:
    mixture = Mixture.build(lengths(a=100, b=7), MixtureConfig(strategy="equal", total=60))
    for task, rows in ((0, 100), (1, 7)):
        seen: Counter[int] = Counter()
        for epoch in range(10):
            drawn = [row for t, row in mixture.epoch(epoch) if t == task]
            seen.update(drawn)
            assert max(seen[row] for row in range(rows)) - min(seen[row] for row in range(rows)) <= 1


def test_each_epoch_has_another_order_and_a_seed_fixes_it() -> None:
    sizes = lengths(a=100, b=50)
    mixture = Mixture.build(sizes, MixtureConfig(), seed=1)
    first, second = mixture.epoch(0).tolist(), mixture.epoch(1).tolist()
    assert first != second
    assert sorted(first) == sorted(second) == [[0, i] for i in range(100)] + [[1, i] for i in range(50)]
    assert second == Mixture.build(sizes, MixtureConfig(), seed=1).epoch(1).tolist()
    assert first != Mixture.build(sizes, MixtureConfig(), seed=2).epoch(0).tolist()
    order = [task for task, _ in mixture.epoch(0)]
    assert len({tuple(order[i : i + 10]) for i in range(0, 150, 10)}) > 5  # mixed through, not in blocks


@pytest.mark.parametrize("strategy", ["equal", "proportional", "weights"])
def test_by_tokens_the_shares_of_tokens_hold_within_one_example(strategy: str) -> None:
    sizes = {"short": [5] * 300, "long": [90, 110, 100] * 20, "mixed": lengths(x=100)["x"]}
    extra: dict[str, Any] = {"weights": {"short": 1, "long": 2, "mixed": 3}} if strategy == "weights" else {}
    mixture = Mixture.build(sizes, MixtureConfig(strategy=strategy, by="tokens", total=5000, **extra))
    totals = np.zeros(3)
    for epoch in range(7):
        for task, name in enumerate(sizes):
            tokens = sum(sizes[name][row] for t, row in mixture.epoch(epoch) if t == task)
            assert abs(tokens - mixture.shares[task] * 5000) <= max(sizes[name])
            totals[task] += tokens
            assert abs(totals[task] - mixture.shares[task] * 5000 * (epoch + 1)) <= max(sizes[name]) / 2 + 1e-6


def test_by_tokens_without_a_total_each_row_comes_once() -> None:
    mixture = Mixture.build(lengths(a=100, b=50), MixtureConfig(by="tokens"))
    for epoch in range(3):
        assert counts(mixture, epoch) == [100, 50]


def test_the_realised_table_says_what_happened() -> None:
    mixture = Mixture.build({"a": [10] * 30, "b": [20] * 10}, MixtureConfig(strategy="equal"))
    realised = mixture.realised(np.array([40, 40]), np.array([400, 800]), [0, 3], [1, 0])
    a, b = json.loads(json.dumps(realised))
    assert a == {
        "task": "a",
        "available": 30,
        "drawn": 40,
        "passes": 40 / 30,
        "tokens": 400,
        "wanted": 0.5,
        "share_of_examples": 0.5,
        "share_of_tokens": pytest.approx(1 / 3),
        "cut": 0,
        "dropped": 1,
    }
    assert (b["cut"], b["dropped"]) == (3, 0)
    assert (b["drawn"], b["passes"], b["tokens"]) == (40, 4, 800)
    console = Console(width=120, record=True)
    console.print(realised_table(realised, "What was drawn"))
    text = console.export_text()
    assert "What was drawn" in text
    assert "cut" in text
    assert "left out" in text
    console.print(realised_table(mixture.realised(np.array([40, 40]), np.array([400, 800]), [0, 0], [0, 0]), ""))
    text = console.export_text()
    assert "left out" not in text
    assert "valid." not in text
    for row, sizes in zip(realised, ((2, 3), (1, 4)), strict=True):
        row["validation"], row["test"] = sizes
    narrow = Console(width=80, record=True)
    narrow.print(realised_table(realised, ""))
    text = narrow.export_text()
    assert text.split("\n")[1].split()[:4] == ["task", "train", "valid.", "test"]
    assert [line.split()[:5] for line in text.splitlines() if line.startswith(("a ", "b "))] == [
        ["a", "30", "2", "3", "40"],
        ["b", "10", "1", "4", "40"],
    ]


@pytest.mark.parametrize("by", ["examples", "tokens"])
def test_epochs_can_be_asked_for_in_any_order(by: str) -> None:
    def build() -> Mixture:
        return Mixture.build(lengths(a=100, b=7), MixtureConfig(strategy="equal", by=by, total=60 * 20), seed=3)

    forward, backward = build(), build()
    there = [forward.epoch(number).tolist() for number in range(6)]
    assert there == [backward.epoch(number).tolist() for number in reversed(range(6))][::-1]


@pytest.mark.parametrize("by", ["examples", "tokens"])
def test_a_period_goes_through_every_task_many_times(by: str) -> None:
    config = MixtureConfig(strategy="weights", weights={"a": 1, "b": 3, "c": 0}, by=by, total=200)
    mixture = Mixture.build({"a": [10] * 40, "b": [10] * 7, "c": [10] * 9}, config)
    draws = np.concatenate([mixture.epoch(number) for number in range(mixture.period)])
    for task, rows in enumerate([40, 7]):
        times = np.bincount(draws[draws[:, 0] == task, 1], minlength=rows)
        assert times.min() >= 63
        assert times.max() - times.min() <= 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"strategy": "temperature"}, "strategy 'temperature' needs 'temperature'"),
        ({"strategy": "capped"}, "strategy 'capped' needs 'cap'"),
        ({"strategy": "equal", "temperature": 2}, "'temperature' goes with strategy 'temperature'"),
        ({"cap": 5}, "'cap' goes with strategy 'capped', but strategy is 'proportional'"),
        ({"strategy": "weights", "weights": {"a": -1}}, "the weight of 'a' must be 0 or more"),
        ({"strategy": "weights", "weights": {"a": float("nan")}}, "the weight of 'a' must be 0 or more"),
        ({"strategy": "weights", "weights": {"a": 0}}, "all weights are 0"),
        ({"strategy": "temperature", "temperature": 0}, "greater than 0"),
        ({"stategy": "equal"}, "Extra inputs are not permitted"),
        ("even", "'proportional', 'temperature', 'equal', 'capped' or 'weights'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MixtureConfig.model_validate(config)


def test_a_string_is_a_strategy() -> None:
    assert MixtureConfig.model_validate("equal").strategy == "equal"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"strategy": "weights", "weights": {"a": 1, "bb": 1}}, "unknown task 'bb'.*the tasks are a, b"),
        ({"strategy": "weights", "weights": {"a": 1}}, "weights lacks 'b'"),
        ({"total": 5}, "leaves no example for the task 'b'"),
        ({"total": 20, "by": "tokens"}, "leaves no example for the task 'b'"),
    ],
)
def test_a_mixture_that_silently_drops_a_task_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mixture.build({"a": [10] * 100, "b": [10]}, MixtureConfig(**config))


def test_a_task_without_rows_is_refused() -> None:
    with pytest.raises(UserError, match="'b' has no examples to train on"):
        Mixture.build({"a": [10], "b": []}, MixtureConfig())
