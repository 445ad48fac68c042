"""A file of predictions: a line for each row, written batch by batch, gone on with by the same model and task alone.

Beside `NAME.jsonl`, which holds nothing but rows with their predictions, lies `NAME.jsonl.about.json`: what made them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from loraweave.errors import UserError
from loraweave.evaluation.loaded import Loaded
from loraweave.evaluation.record import describe
from loraweave.files import append_json_line, aside, make_folder, read_json_lines, write_json, write_json_lines
from loraweave.locks import locked_file
from loraweave.shapes import read_shaped
from loraweave.tasks import Task
from loraweave.tasks.data_task import DataTask
from loraweave.tasks.rows import plain_values

FORMAT = 1
AT_ONCE = 64
"""Rows that are predicted together; a few batches of the model, so that a kill costs little."""
_OF_THE_DATA = ("dataset_", "metadata", "training_split", "validation_split", "test_split", "fewshot_split")


class _About(TypedDict):
    run: str
    task: str
    asked: str
    made_of: dict[str, str]


def predict_file(
    loaded: Loaded,
    task: str,
    rows: Sequence[Mapping[str, Any]],
    output: Path,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Predict every row and write it to `output` as JSON lines, `row` and what `Loaded.predict` gives.

    Args:
        loaded: the model.
        task: what is asked.
        rows: with the columns that the task reads.
        output: what is there already is gone on with.
        report: called with the rows done and the rows in all.

    Returns:
        How many rows had been predicted before.

    Raises:
        UserError: the file holds predictions of other rows, of another model or task, or of nobody knows which; another
            command is writing it; or as of `Loaded.predict`.
    """
    make_folder(output.parent, "the folder of the predictions")
    with locked_file(output):
        done, kept = read_json_lines(output), [plain_values(row) for row in rows]
        if len(done) > len(rows) or any(line.get("row") != row for line, row in zip(done, kept, strict=False)):
            raise UserError(f"{output}: holds predictions of other rows than these; choose another output")
        about = aside(output, "about.json")
        now = _about(loaded, task)
        if done or (not about.is_file() and output.is_file() and output.stat().st_size):
            _check_same(output, about, now)
        else:
            write_json(about, {"format": FORMAT, **now})
        write_json_lines(output, done)  # without the line that a kill may have torn
        # Rows that are predicted together are rounded together: to the last digit as without a break, from their first.
        first = len(done) - len(done) % AT_ONCE if len(done) < len(rows) else len(rows)
        for start in range(first, len(rows), AT_ONCE):
            report(max(start, len(done)), len(rows))
            batch = rows[start : start + AT_ONCE]
            predicted = loaded.predict(task, batch, first=start + 1)
            for number, (row, found) in enumerate(zip(kept[start:], predicted, strict=False), start):
                if number >= len(done):
                    append_json_line(output, {"row": row, **found})
        report(len(rows), len(rows))
    return len(done)


def _about(loaded: Loaded, task: str) -> _About:
    found = loaded.task(task)
    return _About(run=str(loaded.folder.resolve()), task=task, asked=_asked(found), made_of=loaded.made_of())


def _asked(task: Task) -> str:
    """A hash of how a task asks and reads answers, wherever its data are."""
    config = describe([task])[task.name]["config"] or {}
    said = {key: value for key, value in config.items() if not key.startswith(_OF_THE_DATA)}
    said |= task.templates if isinstance(task, DataTask) else {}
    return hashlib.sha256(json.dumps([said, task.chat_template], sort_keys=True).encode()).hexdigest()


def _check_same(output: Path, about: Path, now: _About) -> None:
    if not about.is_file():
        raise UserError(f"{output}: no {about.name} says what made these predictions; choose another output")
    before = read_shaped(about, _About)
    if before["task"] != now["task"]:
        what = f"for the task {before['task']!r}"
    elif before["made_of"] != now["made_of"]:
        what = f"by another model, {before['run']} as it was"
    elif before["asked"] != now["asked"]:
        what = f"for the task {now['task']!r} as it was before its templates were changed"
    else:
        return
    raise UserError(f"{output}: holds predictions {what}; choose another output")
