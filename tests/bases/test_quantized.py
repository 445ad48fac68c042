"""Quantised bases from the run file: trained on, asked and exported with each library that is installed."""

import json
import math
from pathlib import Path

import pytest
import torch
from tiny_project import write_project, write_run_file

from loraweave import RunConfig, evaluate, load, load_run, train
from loraweave.bases import BaseSpec, fingerprint, load_base
from loraweave.bases.quantization import QUANTIZATIONS, missing_library
from loraweave.errors import UserError
from loraweave.export import export
from loraweave.runs.adapting import take_off
from loraweave.shapes import read_metrics

ONE_PER_LIBRARY = ("nf4", "int8", "torchao-int8", "quanto-int8")
LONG = {name: () if name in ONE_PER_LIBRARY else pytest.mark.long for name in QUANTIZATIONS}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=marks) for name, marks in LONG.items()])
def name(request: pytest.FixtureRequest) -> str:
    if (missing := missing_library(request.param)) is not None:
        pytest.skip(missing)
    return request.param


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("quantised") / "project")
    write_run_file(folder)
    return folder


def configured(project: Path, name: str, *more: str) -> RunConfig:
    """The project's run on nano, whose layers are large enough for blocks of 64 weights."""
    settings = [f"model={{name: nano, quantization: {name}}}", "train.max_steps=3", *more]
    return RunConfig.load(project / "run.yaml", settings)


@pytest.fixture(scope="module")
def run(project: Path, name: str) -> Path:
    method = "method={name: multilora, r: 4}"
    return train(configured(project, name, method, f"output={project}/{name}")).folder


def test_its_layers_are_quantised_and_its_fingerprint_is_that_of_the_plain_base(name: str):
    plain, quantised = load_base("nano")[0], load_base(BaseSpec(name="nano", quantization=name))[0]
    ids = torch.randint(3, 200, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said, rounded = plain(ids).logits, quantised(ids).logits
    assert not torch.allclose(said, rounded, atol=1e-5)
    assert torch.corrcoef(torch.stack([said.flatten(), rounded.flatten()]))[0, 1] > 0.95
    assert fingerprint(plain) == fingerprint(quantised)


def test_a_run_learns_and_records_it(run: Path, name: str):
    recorded = json.loads((run / "base.json").read_text())
    assert recorded["quantization"] == name
    losses = [line["loss"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line]
    assert len(losses) == 3
    assert all(map(math.isfinite, losses))
    loaded = load_run(run)
    trained = {key: p for key, p in loaded.model.named_parameters() if "weave_" in key}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert all(p.abs().sum() > 0 for key, p in trained.items() if "weave_B" in key)
    assert fingerprint(loaded.model) == recorded["fingerprint"]
    assert loaded.model.get_base_model().config.quantization_config is not None


def test_it_is_scored_and_asked_as_it_was_trained(run: Path):
    assert set(evaluate(run, limit=2).scores) == {"parity", "double", "notes"}
    asked = load(run / "adapter")
    assert asked.model.get_base_model().config.quantization_config is not None
    assert isinstance(asked.generate(None, "Double ab:", max_new_tokens=2), str)


def test_checkpointing_and_accumulation_train_on_it_too(project: Path, name: str, tmp_path: Path):
    settings = ["train.gradient_checkpointing=true", "train.gradient_accumulation_steps=2", f"output={tmp_path}/out"]
    done = train(configured(project, name, "method={name: rlora, r: 4}", *settings))
    assert done.steps == 3


def test_the_base_is_given_back_untouched(project: Path, name: str, tmp_path: Path):
    base = load_base(BaseSpec(name="nano", quantization=name))
    ids = torch.randint(3, 200, (1, 12), generator=torch.Generator().manual_seed(0))

    def said(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model(ids).logits

    before = said(base[0])
    train(configured(project, name, f"output={tmp_path}/out"), base=base)
    assert torch.equal(said(base[0]), before)
    loaded = load_run(tmp_path / "out", base=base)
    assert not torch.equal(said(loaded.model), before)
    assert torch.equal(said(take_off(loaded.model)), before)


def test_it_becomes_a_plain_lora_and_is_merged_into_the_unquantised_base_alone(run: Path, name: str, tmp_path: Path):
    (made,) = export(run, "lora", tmp_path / "lora")
    assert made.exact
    with pytest.raises(UserError, match=rf"quantization {name}\): quantised, .*--base"):
        export(run, "merged", tmp_path / "merged")
    (made,) = export(run, "merged", tmp_path / "merged", base="nano")
    assert made.exact
