"""What a run wrote down while it trained: losses, validation, speed, mixture, and how the tasks' gradients agree."""

from collections.abc import Sequence
from typing import Any

from typing_extensions import NotRequired, TypedDict

from loraweave.analysis.subjects import AnalysedRun
from loraweave.errors import UserError
from loraweave.shapes import read_metrics, read_shaped

Points = list[tuple[int, float]]


def training(run: AnalysedRun) -> dict[str, Any] | None:
    """The run's entry: (step, value) pairs from metrics.jsonl; None for a bare adapter or checkpoint."""
    if run.files is None:
        return None
    entry: dict[str, Any] = {
        "run": run.name,
        "loss": {},
        "validation": {},
        "learning_rate": [],
        "tokens_per_second": [],
    }
    for line in read_metrics(run.files.metrics):
        for key, value in line.items():
            if value is None:  # it was no number
                continue
            kind, _, task = key.partition("/")
            point = (line["step"], value)
            if kind in ("loss", "eval_loss") and task:
                entry["loss" if kind == "loss" else "validation"].setdefault(task, []).append(point)
            elif key in ("learning_rate", "tokens_per_second"):
                entry[key].append(point)
    entry["mixture"] = run.summary["mixture"]
    return entry


class _Measured(TypedDict):
    step: int
    share: float
    cosine: list[list[float | None]]
    norms: list[float | None]
    within: list[float | None]
    noise: NotRequired[float | None]


class _Gradients(TypedDict):
    """gradients.json."""

    tasks: list[str]
    steps: list[_Measured]


def gradients(run: AnalysedRun) -> list[dict[str, Any]]:
    """The cosines of the tasks' gradients, as the run recorded them (`training.gradients`).

    Raises:
        UserError: the record is not as it was written; names the step that is not of all tasks.
    """
    if run.files is None or not run.files.gradients.is_file():
        return []
    record = read_shaped(run.files.gradients, _Gradients)
    count = len(record["tasks"])
    for number, entry in enumerate(record["steps"]):
        lists = (entry["cosine"], *entry["cosine"], entry["norms"], entry["within"])
        if any(len(each) != count for each in lists):
            raise UserError(f"{run.files.gradients}: steps.{number}: not one entry for each of {count} tasks")
    return [{"run": run.name, "tasks": record["tasks"], **entry} for entry in record["steps"]]


def transfer(runs: Sequence[AnalysedRun]) -> list[dict[str, Any]]:
    """Tasks trained alone against together: validation losses at the end of runs of one method on one base.

    Only where there are runs on one task beside others that have that task too.
    """
    groups: dict[tuple[str, str | None], list[AnalysedRun]] = {}
    for run in runs:
        if run.config is not None and run.tasks:
            groups.setdefault((run.method, run.base_fingerprint), []).append(run)
    tables = []
    for (method, _), group in groups.items():
        alone = {run.tasks[0] for run in group if len(run.tasks) == 1}
        together = {task for run in group if len(run.tasks) > 1 for task in run.tasks}
        if alone & together:
            rows = [{"run": run.name, "trained_on": run.tasks, "losses": _last_losses(run)} for run in group]
            tables.append({"method": method, "base": group[0].base, "rows": rows})
    return tables


def _last_losses(run: AnalysedRun) -> dict[str, float]:
    curves = training(run)
    return {task: points[-1][1] for task, points in curves["validation"].items()} if curves else {}
