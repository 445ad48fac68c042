"""The results file of a run: every evaluation of it, each with the settings that it was made with."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from loraweave.evaluation.beside import Beside
from loraweave.files import write_json
from loraweave.runs.config import EvalConfig
from loraweave.runs.folder import environment
from loraweave.shapes import read_shaped
from loraweave.tasks import Task

FORMAT = 1
RESULTS = "results.json"


def evaluation_settings(config: EvalConfig, tasks: Sequence[Task], seed: int) -> dict[str, Any]:
    """What decides a run's scores: kept with them. The batch size does not."""
    settings = {
        "tasks": [task.name for task in tasks],
        "limit": config.limit,
        "num_fewshot": config.num_fewshot,
        "seed": seed,
    }
    chats = [task.name for task in tasks if task.chat_template]
    settings |= {"chat_template": chats} if chats else {}
    return settings | ({"forgetting": config.forgetting} if config.forgetting else {})


def describe(tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """Where each task comes from, and lm-eval's whole configuration of it (None for a plain file)."""
    return {
        task.name: {
            "origin": task.origin,
            "config": None if task.lm_eval is None else _plain(task.lm_eval.dump_config()),
        }
        for task in tasks
    }


class _Evaluated(TypedDict):
    settings: dict[str, Any]


class _Record(TypedDict):
    evaluations: list[_Evaluated]


def earlier_evaluations(path: Path) -> list[dict[str, Any]]:
    """Those in a results file; none where there is no file. Raises `UserError` where it is no such results file."""
    found: list[dict[str, Any]] = read_shaped(path, _Record)["evaluations"] if path.exists() else []
    return found


def record(
    path: Path,
    settings: Mapping[str, Any],
    tasks: Sequence[Task],
    found: Beside,
    scored: Mapping[str, str] | None = None,
) -> None:
    """Add an evaluation to the results file at `path`: the scores, what they are held against, and by task a hash of
    the examples that were scored, where it is known.

    An earlier evaluation with the same settings is replaced; every other one stays. Raises `UserError` when the file
    is there and is not such a results file; it is then left alone.
    """
    kept = [earlier for earlier in earlier_evaluations(path) if earlier["settings"] != dict(settings)]
    made = {
        "settings": dict(settings),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": environment(settings.get("seed", 0)),
        "tasks": describe(tasks),
        "data": dict(scored or {}),
        "scores": dict(found.scores),
        "base": dict(found.base),
        "majority": found.majority,
        "differences": {name: each._asdict() for name, each in found.differences.items()},
    }
    if (lost := found.forgetting) is not None:
        made["forgetting"] = {
            "scores": dict(lost.scores),
            "base": dict(lost.base),
            "differences": {name: each._asdict() for name, each in lost.differences.items()},
        }
    write_json(path, {"format": FORMAT, "evaluations": [*kept, made]})


def _plain(value: Any) -> Any:
    """A task's configuration with anything that JSON cannot hold, functions for example, as its text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
