"""What a run is scored on and not trained for, to see what training made it forget: other tasks, and bare texts."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from loraweave.errors import UserError
from loraweave.paths import user_path
from loraweave.tasks.files import parted, read_rows
from loraweave.tasks.harness_task import HarnessTask
from loraweave.tasks.load import check_names, load_tasks
from loraweave.tasks.scored import scored_rows
from loraweave.tasks.spec import OnBadRow, TaskSpec, parse_spec
from loraweave.tasks.task import Task
from loraweave.tasks.texts import pieces

SHIPPED = {"plain_english": Path(__file__).parent / "texts" / "plain_english.txt"}
"""Texts that come with the package, by name: written for it, so no base has seen them before it did."""
PASSAGE = 1_000
"""Characters of a passage: what a text is measured by, so that an interval can be told."""


def load_untrained(
    specs: Iterable[Any],
    trained: Mapping[str, str],
    base_dir: str | Path,
    data_dir: str | Path | None = None,
    chat_template: bool = False,
    seed: int = 0,
    trust_code: bool = False,
    on_bad_row: OnBadRow = "error",
) -> list[Task]:
    """Load what is named under `eval.forgetting`, in the order given.

    Args:
        specs: as of `tasks.load_tasks`; and bare texts: a `.txt` file, packed or not, or the name of a text in
            `SHIPPED`.
        trained: name and origin of each task that the run is trained on.
        base_dir, data_dir, chat_template, seed, trust_code, on_bad_row: as of `load_tasks`.

    Raises:
        UserError: as `load_tasks`; a text that is empty; a task that the run is trained on, or that has nothing to be
            scored on.
    """
    found: list[Task] = []
    for number, entry in enumerate(specs, start=1):
        spec = parse_spec(entry, f"eval.forgetting, entry {number}")
        is_text = parted(spec.task)[1] == ".txt"
        path = SHIPPED.get(spec.task) or (user_path(spec.task, Path(base_dir)) if is_text else None)
        if path is not None:
            found.append(_text(spec, path))
        else:
            found += load_tasks([spec], base_dir, data_dir, chat_template, seed, trust_code, on_bad_row)
    for task in found:
        if task.name in trained:
            raise UserError(f"eval.forgetting: {task.name!r} is what the run is trained on ({trained[task.name]})")
        if not task.is_scored:
            raise UserError(
                f"eval.forgetting: {task.origin} has too few rows to hold some out for the score: name a file as 'test'"
            )
    check_names((task.name, task.origin) for task in found)
    return found


def _text(spec: TaskSpec, path: Path) -> HarnessTask:
    other = [key for key, value in spec if value is not None and key not in ("task", "name")]
    if other:
        raise UserError(f"{spec.task}: a text takes a 'name' and nothing else, not {other[0]!r}")
    texts = (row["text"] for row in read_rows(path).rows)
    passages = [passage for text in texts for piece in pieces(text, PASSAGE) if (passage := piece.strip())]
    name = spec.name or parted(path)[0]
    documents = [{"prompt": "", "completion": passage} for passage in passages]
    scored = scored_rows(name, "loglikelihood_rolling", "bits_per_byte", [], documents, ())
    return HarnessTask(name, str(path), False, scored, None, 0)
