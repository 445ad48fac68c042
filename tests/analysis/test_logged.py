"""What a run wrote down: a record that is not of all its tasks is refused, with the place where it is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loraweave.analysis.logged import gradients
from loraweave.analysis.subjects import open_runs
from loraweave.errors import UserError

BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a row too few": lambda step: step["cosine"].pop(),
    "a cosine too few": lambda step: step["cosine"][1].pop(),
    "a norm too few": lambda step: step["norms"].pop(),
    "a mean within a task too many": lambda step: step["within"].append(0.5),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_record_of_gradients_has_every_task(runs: dict[str, Path], tmp_path: Path, how: str) -> None:
    folder = shutil.copytree(runs["lora"], tmp_path / "run")
    record = json.loads((folder / "gradients.json").read_text())
    BROKEN[how](record["steps"][1])
    (folder / "gradients.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"gradients\.json: steps\.1: not one entry for each of 3 tasks"):
        gradients(open_runs([folder])[0])
