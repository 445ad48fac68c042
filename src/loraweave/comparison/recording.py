"""Makes the records of a comparison: of a run, and the results that runs are added to; what is not known is empty."""

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from loraweave.comparison.records import FORMAT, Asked, Curves, Recommendation, Results, RunRecord
from loraweave.evaluation.mean import macro_average
from loraweave.evaluation.scores import TaskScore


def run_record(
    method: str, seed: int | None, scores: dict[str, TaskScore], *, error: str | None = None, **known: Any
) -> RunRecord:
    """The record of a run: its scores alone for the base, the error alone for one that failed.

    Args:
        method: its name in the comparison.
        seed: None for the base.
        scores: by task.
        error: why it failed.
        known: further fields of the record.
    """
    made = RunRecord(
        method=method,
        seed=seed,
        status="failed" if error else "finished",
        error=error,
        scores=scores,
        mean=macro_average(scores),
        rank=None,
        learning_rate=None,
        validation_loss=None,
        trainable_parameters=0,
        seconds=None,
        evaluation_seconds=None,
        tokens_per_second=None,
        peak_memory=None,
        adapter=None,
        curves=Curves(training={}, validation={}),
        mixture=[],
    )
    return _with(made, known, "forgetting")


def new_results(settings: dict[str, Any], asked: Asked, **known: Any) -> Results:
    """The results of a comparison in which nothing is done yet.

    Args:
        settings: what decides what the numbers are.
        asked: what is to be done.
        known: further fields of the results.
    """
    made = Results(
        format=FORMAT,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command="",
        settings=settings,
        asked=asked,
        environment={},
        tasks={},
        task_configs={},
        data={},
        base={},
        searches=[],
        runs=[],
        summary=[],
        reference="",
        differences=[],
        recommendation=Recommendation(method=None, text="", points=[]),
    )
    return _with(made, known)


def _with(record: Any, known: Mapping[str, Any], *more: str) -> Any:
    if unknown := known.keys() - {*record, *more}:
        raise TypeError(f"no field of a record: {', '.join(sorted(unknown))}")
    return {**record, **known}
