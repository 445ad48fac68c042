"""A GGUF file as the base of a run, from the dry run to the exports."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_gguf import write_gguf
from tiny_project import write_project, write_run_file
from transformers import AutoModelForCausalLM

from loraweave import evaluate, load, load_run, train
from loraweave.bases import BaseSpec, base_config, fingerprint, load_base, load_tokenizer
from loraweave.errors import UserError
from loraweave.estimate.dry_run import dry_run
from loraweave.export import export
from loraweave.export.merged import check as check_merged
from loraweave.export.source import open_source
from loraweave.files import file_hash
from loraweave.runs.config import RunConfig

pytest.importorskip("gguf", reason="the package gguf is not installed")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    return {"whole": write_gguf(folder / "whole"), "rounded": write_gguf(folder / "rounded", rounded=True)}


@pytest.fixture(scope="module")
def run(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the rounded file, which lies in the project's folder."""
    project = write_project(tmp_path_factory.mktemp("run") / "project")
    write_run_file(project)
    shutil.copy(files["rounded"], project / "base.gguf")
    config = RunConfig.load(project / "run.yaml", ["model=" + str(project / "base.gguf"), f"output={project}/out"])
    return train(config).folder


def test_its_model_is_the_one_that_was_written(files: dict[str, Path]) -> None:
    model, tokenizer = load_base(files["whole"])
    like = AutoModelForCausalLM.from_pretrained(files["whole"].parent / "shape", dtype=torch.float32)
    ids = tokenizer("Double abx:", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, like(ids).logits, rtol=1e-4, atol=1e-4)
    assert fingerprint(model) == fingerprint(load_base(files["whole"])[0])


def test_it_is_a_plain_model_that_can_be_saved(files: dict[str, Path], tmp_path: Path) -> None:
    model, _ = load_base(files["rounded"])
    assert model.config.name_or_path == str(files["rounded"])
    assert not getattr(model, "is_quantized", False)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_configuration_and_tokenizer_need_no_weights(files: dict[str, Path]) -> None:
    assert base_config(files["rounded"]).num_hidden_layers == 6
    assert load_tokenizer(files["rounded"]).pad_token is not None


@pytest.mark.long
def test_a_run_is_trained_on_it_and_records_the_file(run: Path) -> None:
    recorded = json.loads((run / "base.json").read_text())
    path = run.parent / "base.gguf"
    assert recorded["name"] == str(path)
    assert recorded["sha256"] == file_hash(path)
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(path)
    assert set(evaluate(run, limit=2).scores) == {"parity", "double", "notes"}
    assert isinstance(load(run / "adapter").generate(None, "Double abx:", max_new_tokens=2), str)


def test_another_file_under_its_name_is_refused(run: Path, files: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    text = (copy / "run.yaml").read_text()
    assert "model: ./base.gguf\n" in text
    (copy / "run.yaml").write_text(text.replace("model: ./base.gguf\n", f"model: {files['whole']}\n"))
    with pytest.raises(UserError, match="is not the one the adapter was trained on"):
        load_run(copy)


def test_a_dry_run_knows_it(files: dict[str, Path], tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    write_run_file(project)
    found = dry_run(RunConfig.load(project / "run.yaml", [f"model={files['rounded']}"]))
    assert found.parameters == sum(p.numel() for p in load_base(files["rounded"])[0].parameters())
    assert found.steps == 6


def test_its_adapter_is_exported_but_not_merged_into_rounded_weights(
    run: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made,) = export(run, "lora", tmp_path / "lora")
    assert made.largest <= 1e-4
    assert str(run.parent / "base.gguf") in (tmp_path / "lora" / "README.md").read_text()
    (made,) = export(run, "gguf", tmp_path / "gguf")
    assert made.largest <= 1e-4
    with pytest.raises(UserError, match=r"base\.gguf: quantised.*--base"):
        export(run, "merged", tmp_path / "merged")
    monkeypatch.setattr("loraweave.bases.gguf.cached_file", lambda *_, **__: str(files["rounded"]))
    with pytest.raises(UserError, match=r"owner/repo/base\.gguf: quantised.*--base"):
        check_merged(replace(open_source(run), spec=BaseSpec(name="owner/repo/base.gguf")))
    whole = files["whole"]
    (made,) = export(run, "merged", tmp_path / "merged", base=str(whole))
    assert made.exact
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_a_file_that_is_not_there_or_broken_is_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "torn.gguf").write_bytes(files["whole"].read_bytes()[:5000])
    with pytest.raises(UserError, match=r"tron\.gguf: no such file.*did you mean 'torn\.gguf'"):
        load_base(tmp_path / "tron.gguf")
    with pytest.raises(UserError, match=r"torn\.gguf: the GGUF file cannot be loaded") as error:
        load_base(tmp_path / "torn.gguf")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"no config\.json.*a GGUF file is named itself"):
        load_base(tmp_path)


def test_it_is_not_quantised_again(files: dict[str, Path], tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    write_run_file(project)
    config = RunConfig.load(project / "run.yaml", [f"model={{name: {files['whole']}, quantization: nf4}}"])
    with pytest.raises(UserError, match=r"model\.quantization nf4: .* is a GGUF file"):
        dry_run(config)
