"""The runs of the plan, stage after stage, each a `loraweave compare` that goes on with what is recorded."""

import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from rich.console import Console

import loraweave
from loraweave.bases import empty_base
from loraweave.estimate.counting import count_trainable, match_rank
from loraweave.files import read_json, write_json
from loraweave.runs.config import RunConfig
from study.geometry import measure_new
from study.place import HERE, Place
from study.plan import METHODS, RATES, REGIMES, UNMATCHED, Regime, Stage, expected_seconds

COMMAND = "cd benchmarks && python -m study"
TAKEN_FROM = "taken_from"
"""The key of a search that was made on other tasks: which."""


def run_config(place: Place, regime: Regime) -> RunConfig:
    """The regime's run file on this machine."""
    budget = place.budget
    train = {
        "max_steps": budget.steps,
        "per_device_train_batch_size": budget.batch,
        "eval_strategy": "steps",
        "eval_steps": budget.steps,  # once, at the end: that loss chooses the learning rate
        "bf16": True,  # a step takes 0.72 times what it takes in float32
    }
    over = [f"train.{key}={value}" for key, value in train.items()]
    over += [f"model={place.base}", f"data_dir={place.data / regime}", f"eval.limit={budget.limit}"]
    if regime == "apart":  # what is asked of forgetting is asked there
        over.append(f"eval.forgetting=[{place.data / 'forgetting.txt'}]")
    return RunConfig.load(HERE / f"{regime}.yaml", over)


def method(name: str, config: RunConfig) -> dict[str, Any]:
    """A method of the plan at the rank at which it trains as many parameters as `lora`."""
    spec = METHODS[name]
    if name in UNMATCHED:
        return spec
    tasks = tuple(task.name for task in config.load_tasks())
    return match_rank(spec, _empty(config.model), _budget(config.model, tasks), tasks)


def run_all(
    place: Place,
    minutes: float | None,
    say: Callable[[str], None],
    order: Sequence[Stage],
    rates: tuple[str, ...] = RATES,
) -> bool:
    """Run what is left of the plan.

    Args:
        place: its files, prepared.
        minutes: begin no stage that may not end by then; None for all.
        say: told what begins, and what it may take.
        order: the stages.
        rates: learning rates to choose from; no search if empty.

    Returns:
        Whether everything is done.
    """
    begun = time.monotonic()
    for stage in order:
        left = outstanding(place, stage)
        if left is None:
            continue
        seconds = stage_seconds(place, left)
        spent = time.monotonic() - begun
        what = f"{stage.regime}, seed {stage.seed}: {', '.join(left.methods)}"
        if minutes is not None and spent + seconds > 60 * minutes:
            say(f"stopped before {what}, which may take {seconds / 60:.0f} min; the same command goes on")
            return False
        say(f"{what} (about {seconds / 60:.0f} min): {stage.why}")
        run_stage(place, left, rates)
    return True


def run_stage(place: Place, stage: Stage, rates: tuple[str, ...] = RATES) -> None:
    """Run one stage and write down what it came to, also where it is stopped."""
    config = run_config(place, stage.regime)
    folder = place.comparison(stage.regime)
    take_over(place, stage)
    try:
        loraweave.compare(
            config,
            [method(name, config) for name in stage.methods],
            [stage.seed],
            learning_rates=list(rates),
            widen=len(rates) > 1,
            output=folder,
            resume=(folder / "results.json").is_file(),
            console=Console(stderr=True),
            command=COMMAND,
        )
    finally:
        place.keep(stage.regime)
    measure_new(place, stage.regime)


def take_over(place: Place, stage: Stage) -> None:
    """Bring the searches of the stage's methods that have ended on the other kind of tasks into this comparison."""
    here = place.comparison(stage.regime) / "results.json"
    if not here.is_file():
        return  # the first stage searches for itself
    results = read_json(here)
    tried = [search for search in results["searches"] if search["trials"] or TAKEN_FROM in search]
    wanted = {*stage.methods} - {search["method"] for search in tried}
    taken = []
    for other in REGIMES:
        if other != stage.regime and (found := place.results(other)) is not None:
            ended = {(run["method"], run["learning_rate"]) for run in found["runs"] if run["status"] == "finished"}
            taken += [
                {**search, TAKEN_FROM: other}
                for search in found["searches"]
                if search["method"] in wanted and (search["method"], search["chosen"]) in ended
            ]
    if taken:
        names = {search["method"] for search in taken}
        kept = [search for search in results["searches"] if search["method"] not in names]
        write_json(here, {**results, "searches": kept + taken})


def outstanding(place: Place, stage: Stage) -> Stage | None:
    """The stage with the methods that have no finished run, at the rate that is chosen by now; None if all have."""
    results = place.results(stage.regime)
    runs, searches = (results["runs"], results["searches"]) if results else ([], [])
    chosen = {search["method"]: search["chosen"] for search in searches}
    done = {
        (run["method"], run["seed"])
        for run in runs
        if run["status"] == "finished" and run["learning_rate"] == chosen.get(run["method"], run["learning_rate"])
    }
    left = tuple(name for name in stage.methods if (name, stage.seed) not in done)
    return Stage(stage.regime, left, stage.seed, stage.why) if left else None


def searched(place: Place) -> set[str]:
    """The methods whose learning rate has been chosen, on whichever tasks."""
    found = [results["searches"] for regime in REGIMES if (results := place.results(regime)) is not None]
    return {search["method"] for searches in found for search in searches if search["chosen"] is not None}


def run_seconds(place: Place) -> float | None:
    """What a run of an adapter took so far, scoring included: the mean over both regimes; None before the first."""
    found = [
        run["seconds"] + run["evaluation_seconds"]
        for regime in REGIMES
        if (results := place.results(regime)) is not None
        for run in results["runs"]
        if run["seconds"] is not None and run["evaluation_seconds"] is not None and run["method"] != "full"
    ]
    return sum(found) / len(found) if found else None


def stage_seconds(place: Place, stage: Stage) -> float:
    """How long a stage may take from what is recorded."""
    known, first = searched(place), place.results(stage.regime) is None
    return expected_seconds(stage, place.budget, known, run_seconds(place), first)


@cache
def _empty(model: str) -> Any:
    return empty_base(model)


@cache
def _budget(model: str, tasks: tuple[str, ...]) -> int:
    return count_trainable(METHODS["lora"], _empty(model), tasks)
