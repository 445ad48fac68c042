"""The page of every key and the schema for editors are what the models say, and hold the run files that there are."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_project import write_project, write_run_file

from loraweave.bases import BaseSpec
from loraweave.config import WeaveConfig
from loraweave.data.mixture import MixtureConfig
from loraweave.runs.config import EvalConfig, RunConfig
from loraweave.runs.loss_config import LossConfig
from loraweave.runs.methods import METHODS
from loraweave.runs.reference import run_file_page
from loraweave.runs.schema import FILE, described, run_file_schema
from loraweave.runs.settings import DEFAULTS, KNOWN, ONLY
from loraweave.runs.train_keys import MEANINGS
from loraweave.runs.yamlfile import parse_value
from loraweave.tasks.spec import TaskSpec

ROOT = Path(__file__).resolve().parents[2]
RUN_FILES = sorted(
    [
        *(ROOT / "examples" / "recipes").glob("*.yaml"),
        ROOT / "examples" / "ten_tasks.yaml",
        ROOT / "src" / "loraweave" / "quickstart" / "run.yaml",
    ]
)
WRONG = {
    "a misspelt key": {"modle": "nano"},
    "a base that is a number": {"model": 3},
    "a quantisation that there is not": {"model": {"name": "nano", "quantization": "nf5"}},
    "a method that there is not": {"method": "lorra"},
    "a field that no method has": {"method": {"name": "lora", "rr": 3}},
    "a rank of 0": {"method": {"name": "lora", "r": 0}},
    "a task without its name": {"tasks": [{"name": "x"}]},
    "a training argument that there is not": {"train": {"learning_rte": 1e-4}},
    "a training argument of another kind": {"train": {"max_length": "long"}},
    "a training argument out of range": {"train": {"max_length": 0}},
    "a mixture that there is not": {"mixture": "even"},
}


def test_the_page_is_current():
    assert (ROOT / "docs" / "runfile.md").read_text(encoding="utf-8") == run_file_page(), "make runfile"


def test_the_schema_that_ships_is_current():
    assert json.loads(FILE.read_text(encoding="utf-8")) == run_file_schema(), "make runfile"


def test_every_key_has_a_line():
    for model in (RunConfig, BaseSpec, TaskSpec, MixtureConfig, EvalConfig, LossConfig):
        assert set(model.model_fields) <= set(described(model)), model
    assert set(DEFAULTS) <= set(MEANINGS) <= KNOWN | {ONLY}
    page = (ROOT / "docs" / "runfile.md").read_text(encoding="utf-8")
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert not [row[0] for row in rows if len(row) == 4 and not row[3].strip()]
    assert not [row[0] for row in rows if not row[1].strip()]


def test_it_knows_every_key():
    at = run_file_schema()["properties"]
    assert set(at) == set(RunConfig.model_fields)
    assert set(at["train"]["properties"]) == KNOWN | {ONLY}
    method = at["method"]["anyOf"][1]["properties"]
    assert set(method["name"]["enum"]) == set(METHODS)
    assert {name for each in METHODS.values() for name in each.fields()} <= set(method)
    assert method["gate"]["enum"] == ["uniform", "channel", "token", "task", "task_embedding", "own"]
    assert described(WeaveConfig)["r"] == "rank of one head"


def holds(values: Any) -> bool:
    jsonschema = pytest.importorskip("jsonschema", reason="the package jsonschema is not installed")
    jsonschema.Draft7Validator.check_schema(run_file_schema())
    return jsonschema.Draft7Validator(run_file_schema()).is_valid(values)


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.name)
def test_the_run_files_that_there_are_hold_to_it(path: Path):
    assert holds(parse_value(path.read_text(encoding="utf-8")))  # 1e-4 is a number, as YAML 1.2 and editors have it


def test_a_run_file_as_a_run_keeps_it_holds_to_it(tmp_path: Path):
    project = write_project(tmp_path)
    assert holds(RunConfig.load(write_run_file(project)).as_dict())
    settings = ["model={name: nano, quantization: int8}", "train.learning_rate={lora: 1e-3}", "train.eval_strategy=no"]
    assert holds(RunConfig.load(project / "run.yaml", settings).as_dict())


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_a_run_refuses_is_marked(wrong: dict[str, Any]):
    values = {"model": "nano", "tasks": ["boolq"], **wrong}
    with pytest.raises(ValueError):  # noqa: PT011 - a UserError
        RunConfig(**values)
    assert not holds(values)
