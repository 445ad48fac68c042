"""The plan of a run: what it says before the first step is what is then trained on, row for row, whatever the mixture,
the processes and the length of the run."""

import time
from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from loraweave.data.mixture import Mixture, MixtureConfig
from loraweave.data.order import EpochSampler
from loraweave.data.plan import BLANK, RowPlan, validation_plan
from loraweave.data.prepare import RunData
from loraweave.data.rows import TaskTokens, TokenRows
from loraweave.data.schedule import Schedule

MAX_LENGTH = 24
LENGTHS = st.lists(st.integers(2, MAX_LENGTH), min_size=1, max_size=12)


def run_data(lengths: list[list[int]], **mixture: Any) -> RunData:
    parts = [TaskTokens.of([{"input_ids": [1] * n, "labels": [-100] + [1] * (n - 1)} for n in ns]) for ns in lengths]
    by_task = {f"t{task}": of_task for task, of_task in enumerate(lengths)}
    return RunData(TokenRows(parts), None, Mixture.build(by_task, MixtureConfig(**mixture)), {}, {})


def plan_of(data: RunData, schedule: Schedule, packing: bool, seed: int = 0) -> RowPlan:
    return RowPlan(
        data.training,
        data.epoch,
        max_length=MAX_LENGTH,
        packing=packing,
        seed=seed,
        schedule=schedule,
        period=data.mixture.period,
    )


def trained_on(plan: RowPlan, batch: int, processes: int, accumulation: int, steps: int) -> list[list[int]]:
    """The rows of each step, by walking the sampler as the Trainer and accelerate do."""
    found: list[list[int]] = []
    epoch = 0
    while len(found) < steps:
        sampler = EpochSampler(plan, batch, processes)
        sampler.set_epoch(epoch)
        batches = BatchSampler(sampler, batch, drop_last=False)
        shards = [BatchSamplerShard(batches, processes, index) for index in range(processes)]
        parts = [list(shard) for shard in shards] if processes > 1 else [list(batches)]
        assert len({len(part) for part in parts}) == 1, "a process would wait for the others for ever"
        together = [list(chain.from_iterable(at_once)) for at_once in zip(*parts, strict=True)]
        for start in range(0, len(together), accumulation):
            found.append(list(chain.from_iterable(together[start : start + accumulation])))
        epoch += 1
    return found[:steps]


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[list[list[int]], dict[str, Any]]:
    lengths = draw(st.lists(LENGTHS, min_size=1, max_size=3))
    config: dict[str, Any] = {"strategy": draw(st.sampled_from(["proportional", "equal"]))}
    config["by"] = draw(st.sampled_from(["examples", "tokens"]))
    if draw(st.booleans()):
        least = len(lengths) * (1 if config["by"] == "examples" else MAX_LENGTH)
        config["total"] = draw(st.integers(least, 6 * least))
        config["strategy"] = "equal"
    return lengths, config


@given(
    mixture=mixtures(),
    packing=st.booleans(),
    batch=st.integers(1, 4),
    processes=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    epochs=st.sampled_from([0.3, 1, 1.5, 2, 3]),
    max_steps=st.sampled_from([0, 0, 1, 7, 30]),
)
# One example of 24 tokens where 13 are wanted: every other epoch draws nothing.
@example(
    mixture=([[MAX_LENGTH]], {"by": "tokens", "total": 13}),
    packing=True,
    batch=2,
    processes=2,
    accumulation=1,
    epochs=3,
    max_steps=0,
)
@settings(max_examples=150, deadline=None)
def test_what_is_planned_is_what_happens(
    mixture: tuple[list[list[int]], dict[str, Any]],
    packing: bool,
    batch: int,
    processes: int,
    accumulation: int,
    epochs: float,
    max_steps: int,
) -> None:
    data = run_data(mixture[0], **mixture[1])
    schedule = Schedule(batch * processes * accumulation, epochs, max_steps)
    plan = plan_of(data, schedule, packing)
    steps = schedule.steps(len(plan))
    seen: Counter[int] = Counter()
    tokens = 0
    for number, rows in enumerate(trained_on(plan, batch, processes, accumulation, steps), start=1):
        real = [index for index in rows if index != BLANK]
        assert real, "a step without a row"
        for index in real:
            examples = plan.examples_at(index).tolist()
            assert examples
            assert packing or len(examples) == 1
            assert len(plan[index]["input_ids"]) <= MAX_LENGTH
            seen.update(examples)
            tokens += len(plan[index]["input_ids"])
        assert plan.tokens(schedule.rows_after(number, len(plan))) == tokens
    said = plan.seen(schedule.rows(len(plan)))
    assert said.tolist() == [seen[i] for i in range(len(data.training))]
    assert sum(task["tokens"] for task in data.realised(said)) == tokens


@given(mixtures(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_an_epoch_shows_every_example_that_is_drawn(
    mixture: tuple[list[list[int]], dict[str, Any]], packing: bool
) -> None:
    data = run_data(mixture[0], **mixture[1])
    plan = plan_of(data, Schedule(4, 4), packing)
    for epoch in range(4):
        rows = range(epoch * len(plan), (epoch + 1) * len(plan))
        shown = Counter(chain.from_iterable(plan.examples_at(row).tolist() for row in rows))
        drawn = Counter(data.epoch(epoch).tolist())
        assert drawn <= shown
        assert shown == drawn or sum(shown.values()) == len(plan)


@pytest.mark.parametrize("packing", [True, False])
def test_the_numbers_hold_after_the_period_too(packing: bool) -> None:
    data = run_data([[20, 5, 9], [7, 24]], strategy="equal", by="tokens", total=60)
    period = data.mixture.period
    plan = plan_of(data, Schedule(1, 2 * period + 3), packing)
    count = (2 * period + 2) * len(plan) + 1
    examples = np.concatenate([plan.examples_at(row) for row in range(count)])
    assert plan.seen(count).tolist() == np.bincount(examples, minlength=5).tolist()
    assert plan.tokens(count) == data.training.lengths[examples].sum()
    first, again = (
        [plan.examples_at(row).tolist() for row in range(start, start + len(plan))] for start in (0, period * len(plan))
    )
    assert sorted(first) == sorted(again)


def test_every_epoch_has_its_own_order_and_a_seed_fixes_it() -> None:
    data = run_data([[3, 5, 7, 9, 11, 4, 6] * 3])

    def epochs(seed: int) -> list[list[list[int]]]:
        plan = plan_of(data, Schedule(1, 3), packing=True, seed=seed)
        return [[plan.examples_at(e * len(plan) + i).tolist() for i in range(len(plan))] for e in range(3)]

    first = epochs(0)
    assert first == epochs(0) != epochs(1)
    assert first[0] != first[1] != first[2]


def test_a_plan_for_validation_has_every_row_once() -> None:
    data = run_data([[3, 5, 7], [24, 2]])
    for packing in (True, False):
        plan = validation_plan(data.training, MAX_LENGTH, packing)
        rows = [index for index in EpochSampler(plan, 4, 3) if index != BLANK]
        assert rows == sorted(set(rows), key=rows.index)
        assert sorted(chain.from_iterable(plan.examples_at(row).tolist() for row in rows)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "schedule", [Schedule(8, 1, max_steps=10_000), Schedule(8, 10**6)], ids=["many steps", "many epochs"]
)
@pytest.mark.parametrize("mixture", [{}, {"strategy": "equal", "total": 31}, {"by": "tokens", "total": 300}])
def test_a_long_run_over_few_examples_is_planned_at_once(schedule: Schedule, mixture: dict[str, Any]) -> None:
    lengths = [np.random.default_rng(task).integers(3, MAX_LENGTH, 20).tolist() for task in range(3)]
    data = run_data(lengths, **mixture)
    started = time.process_time()
    plan = plan_of(data, schedule, packing=True)
    rows = schedule.rows(len(plan))
    seen = plan.seen(rows)
    plan[rows - 1]
    assert plan.tokens(rows) == (seen * data.training.lengths).sum()
    assert time.process_time() - started < 2


def test_little_of_much_is_planned_without_going_through_it_all() -> None:
    """Each epoch takes a thousandth of a task: its shuffle is drawn once, not once an epoch."""
    data = run_data([[5] * 200_000], total=200)
    started = time.process_time()
    plan = plan_of(data, Schedule(8, 1, max_steps=12_500), packing=False)
    assert plan.seen(100_000).max() == 1
    assert time.process_time() - started < 2
