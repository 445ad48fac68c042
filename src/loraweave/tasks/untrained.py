"""What a run is scored on and not trained for, to see what training made it forget: other tasks, and bare texts."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from loraweave.errors import UserError
from loraweave.paths import user_path
from loraweave.tasks.files import existing
from loraweave.tasks.harness_task import HarnessTask
from loraweave.tasks.load import check_names, load_tasks
from loraweave.tasks.spec import TaskSpec, parse_spec
from loraweave.tasks.task import Task
from loraweave.tasks.texts import pieces

SHIPPED = {"plain_english": Path(__file__).parent / "texts" / "plain_english.txt"}
"""Texts that come with the package, by name: written for it, so no base has seen them before it did."""
PASSAGE = 1_000
"""Characters of a passage: what a text is measured by, so that an interval can be told."""


class _Passages(ConfigurableTask):
    """lm-eval's task over a text: the bits per byte of its passages, each read by itself."""

    def __init__(self, name: str, passages: list[str]) -> None:
        self._passages = passages
        metric = {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}
        super().__init__(
            config={
                "task": name,
                "test_split": "test",
                "output_type": "loglikelihood_rolling",
                "doc_to_text": "",
                "doc_to_target": "text",
                "metric_list": [metric],
            }
        )

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": self._passages})})


def load_untrained(
    specs: Iterable[Any],
    trained: Mapping[str, str],
    base_dir: str | Path,
    data_dir: str | Path | None = None,
    chat_template: bool = False,
    seed: int = 0,
    trust_code: bool = False,
) -> list[Task]:
    """Load what is named under `eval.forgetting`, in the order given.

    Args:
        specs: as of `tasks.load_tasks`; and bare texts: a `.txt` file, or the name of a text in `SHIPPED`.
        trained: name and origin of each task that the run is trained on.
        base_dir, data_dir, chat_template, seed, trust_code: as of `load_tasks`.

    Raises:
        UserError: as `load_tasks`; a text that is empty; or a task that the run is trained on.
    """
    found: list[Task] = []
    for number, entry in enumerate(specs, start=1):
        spec = parse_spec(entry, f"eval.forgetting, entry {number}")
        path = SHIPPED.get(spec.task) or (user_path(spec.task, Path(base_dir)) if spec.task.endswith(".txt") else None)
        if path is not None:
            found.append(_text(spec, path))
        else:
            found += load_tasks([spec], base_dir, data_dir, chat_template, seed, trust_code)
    for task in found:
        if task.name in trained:
            raise UserError(f"eval.forgetting: {task.name!r} is what the run is trained on ({trained[task.name]})")
    check_names((task.name, task.origin) for task in found)
    return found


def _text(spec: TaskSpec, path: Path) -> HarnessTask:
    other = [key for key, value in spec if value is not None and key not in ("task", "name")]
    if other:
        raise UserError(f"{spec.task}: a text takes a 'name' and nothing else, not {other[0]!r}")
    try:
        text = existing(path, "text").read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save the file as UTF-8"
        ) from None
    passages = [passage for piece in pieces(text, PASSAGE) if (passage := piece.strip())]
    if not passages:
        raise UserError(f"{path} is empty; there is no text in it to measure")
    name = spec.name or path.stem
    return HarnessTask(name, str(path), False, _Passages(name, passages), None, 0)
