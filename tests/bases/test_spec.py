"""What a run file says of a base beside its name: read, kept, handed on, and refused where it means nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_project import write_base, write_project, write_run_file

from loraweave import bases, load, load_run, train
from loraweave.bases import BaseSpec, empty_base, load_base
from loraweave.bases import load as load_module
from loraweave.bases.quantization import QUANTIZATIONS, missing_library
from loraweave.card import base_arguments
from loraweave.errors import UserError
from loraweave.estimate.dry_run import dry_run
from loraweave.export import export
from loraweave.runs.config import RunConfig
from loraweave.runs.origin import check_base

ALL = {"name": "base", "dtype": "bfloat16", "attn": "eager"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("spec") / "project")
    write_run_file(folder)
    return folder


@pytest.fixture(scope="module")
def run(project: Path) -> Path:
    settings = [f"model={json.dumps(ALL)}", f"model.name={project}/base", f"output={project}/out"]
    return train(RunConfig.load(project / "run.yaml", settings)).folder


@pytest.mark.parametrize("name", ["", "\ud800"])
def test_a_name_that_no_base_has(name: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no base: give a folder"):
        load_base(name)
    with pytest.raises(UserError, match="is no base: give a folder"):
        export(run, "lora", tmp_path / "out", base=name)
    for model in (json.dumps(name), json.dumps({"name": name})):
        with pytest.raises(UserError, match=r"run\.yaml:1: model.*(got ''|half of a character)"):
            written(tmp_path, model)


def written(folder: Path, model: str) -> RunConfig:
    (folder / "run.yaml").write_text(f"model: {model}\ntasks: [boolq]\n")
    return RunConfig.load(folder / "run.yaml")


def test_a_mapping_and_a_name_are_both_a_base(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    assert written(tmp_path, "base").base == BaseSpec(name=str(tmp_path / "base"))
    spec = written(tmp_path, "{name: ./base, dtype: bfloat16, attn: eager}").base
    assert spec == BaseSpec(name=str(tmp_path / "base"), dtype="bfloat16", attn="eager")
    assert str(spec) == f"{tmp_path / 'base'} (dtype bfloat16, attn eager)"


def test_it_comes_back_from_the_file_that_a_run_keeps(tmp_path: Path) -> None:
    config = written(tmp_path, "{name: org/model, quantization: nf4, revision: v2, trust_code: true}")
    assert config.base.trust_code
    config.save(tmp_path / "kept.yaml")
    again = RunConfig.load(tmp_path / "kept.yaml")
    assert again.base == BaseSpec(name="org/model", quantization="nf4", revision="v2")
    assert "trust_code" not in (tmp_path / "kept.yaml").read_text()


def test_a_run_folder_cannot_ask_for_trust(tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text("{}")
    assert not written(tmp_path, "{name: org/model, trust_code: true}").base.trust_code


def test_settings_can_be_put_over_a_name(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: nano\ntasks: [boolq]\n")
    config = RunConfig.load(tmp_path / "run.yaml", ["model.dtype=bfloat16"])
    assert config.base == BaseSpec(name="nano", dtype="bfloat16")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("3", "run.yaml:1: model: Input should be a valid string, got 3"),
        ("{nam: x}", "run.yaml:1: unknown key 'model.nam', did you mean 'name'?"),
        ("{dtype: float32}", "run.yaml: the key 'model.name' is missing"),
        ("{name: x, dtype: float33}", "run.yaml:1: model.dtype: Input should be 'auto', 'float32'"),
        ("{name: x, quantization: nf5}", "run.yaml:1: model.quantization: Input should be 'nf4'"),
        ("{name: x, attn: kernels/any}", "run.yaml:1: model.attn: Input should be 'eager'"),
        ("{name: ''}", "run.yaml:1: model.name: String should have at least 1 character"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, model: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        written(tmp_path, model)
    assert str(error.value).startswith(f"{tmp_path}/{words}")


def test_dtype_and_attention_reach_the_model(run: Path) -> None:
    loaded = load_run(run)
    base = loaded.model.get_base_model()
    assert base.get_input_embeddings().weight.dtype == torch.bfloat16
    assert base.config._attn_implementation == "eager"
    assert {p.dtype for n, p in loaded.model.named_parameters() if "lora_" in n} == {torch.float32}


def test_a_run_records_them_and_an_adapter_alone_is_loaded_so_again(run: Path, tmp_path: Path) -> None:
    recorded = json.loads((run / "base.json").read_text())
    assert {key: recorded[key] for key in ("dtype", "attn")} == {"dtype": "bfloat16", "attn": "eager"}
    adapter = shutil.copytree(run / "adapter", tmp_path / "adapter")
    base = load(adapter).model.get_base_model()
    assert (base.dtype, base.config._attn_implementation) == (torch.bfloat16, "eager")


def test_another_copy_of_the_base_is_loaded_so_too(run: Path, project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project / "base", tmp_path / "copy")
    base = load(run / "adapter", base=str(copy)).model.get_base_model()
    assert (base.dtype, base.config._attn_implementation) == (torch.bfloat16, "eager")
    base = load(run / "adapter", base=BaseSpec(name=str(copy), dtype="float32")).model.get_base_model()
    assert (base.dtype, base.config._attn_implementation) == (torch.float32, "sdpa")


def test_an_export_says_how_its_base_was_loaded(run: Path, tmp_path: Path) -> None:
    export(run, "lora", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "export.json").read_text())["base"]["dtype"] == "bfloat16"


def test_a_run_does_not_go_on_with_a_base_loaded_otherwise(tmp_path: Path) -> None:
    before = {"name": "x", "fingerprint": "1", "quantization": "nf4"}
    check_base(tmp_path, before, dict(before))
    with pytest.raises(UserError, match=r"begun with the base x \(quantization nf4\), and now it is x$"):
        check_base(tmp_path, before, {"name": "x", "fingerprint": "1"})


def test_a_revision_goes_to_the_hub_and_only_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_base(tmp_path / "base")
    with pytest.raises(UserError, match=r"model\.revision v2: .*base lies on this machine"):
        empty_base(BaseSpec(name=str(tmp_path / "base"), revision="v2"))
    asked: dict = {}

    def from_pretrained(place: str, **more: object) -> None:
        asked.update(more, place=place)
        raise OSError("not there")

    monkeypatch.setattr(load_module.AutoConfig, "from_pretrained", from_pretrained)
    with pytest.raises(UserError, match="neither a folder nor found on the hub"):
        empty_base(BaseSpec(name="org/model", revision="v2"))
    assert (asked["place"], asked["revision"]) == ("org/model", "v2")


def test_the_card_of_an_adapter_names_the_revision(tmp_path: Path) -> None:
    assert base_arguments("org/model", "v2") == "'org/model', revision='v2'"
    assert base_arguments("/models/a/b.gguf") == "'/models/a', gguf_file='b.gguf'"
    assert base_arguments("org/repo/b.gguf") == "'org/repo', gguf_file='b.gguf'"
    assert base_arguments("/models/a") == "'/models/a'"


def test_a_file_on_the_hub_is_its_repository_and_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bases.resolve_base("org/repo/some/b.gguf") == "org/repo/some/b.gguf"
    assert load_module._hub_or_folder(BaseSpec(name="org/repo/some/b.gguf")) == (
        "org/repo",
        {"gguf_file": "some/b.gguf"},
    )


def test_a_library_that_is_missing_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = r"model\.quantization nf4 needs the package bitsandbytes: pip install 'loraweave\[quantized\]'"
    with pytest.raises(UserError, match=words):
        load_base(BaseSpec(name=str(project / "base"), quantization="nf4"))
    dry_run(RunConfig.load(project / "run.yaml", ["model.quantization=nf4"]))  # for another machine
    assert "pip install 'loraweave[quantized]'; a run here would end with that" in capsys.readouterr().err


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_every_quantisation_says_what_it_needs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(library: str) -> None:
        raise ModuleNotFoundError(library)

    monkeypatch.setattr("importlib.util.find_spec", nowhere)
    assert QUANTIZATIONS[name].package in (missing_library(name) or "")


def test_a_quantised_base_takes_less_memory_and_is_not_trained_whole(project: Path) -> None:
    def weights(*settings: str) -> int:
        found = dry_run(RunConfig.load(project / "run.yaml", settings))
        return found.memory["one GPU"].base

    in_layers = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    plain = weights()
    assert weights("model.dtype=float32") == pytest.approx(2 * plain, rel=1e-2)  # but for some buffers
    assert plain - weights("model.quantization=int8") == in_layers
    assert plain - weights("model.quantization=nf4") == in_layers * (2 - 0.5 - 1 / 16)
    assert weights("model.quantization=nf4-double") < weights("model.quantization=nf4")
    with pytest.raises(UserError, match=r"method full: .*quantization nf4.* are quantised"):
        weights("model.quantization=nf4", "method=full")


def test_weights_that_are_quantised_already_are_not_quantised_again(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project / "base", tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"model\.quantization int8: the weights of .* are quantised already"):
        empty_base(BaseSpec(name=str(copy), quantization="int8"))


def test_autocast_is_left_out_where_the_layers_do_not_take_it(project: Path) -> None:
    quanto = "model.quantization=quanto-int8"
    assert dry_run(RunConfig.load(project / "run.yaml", [quanto])).args.bf16 is torch.cuda.is_available()
    assert dry_run(RunConfig.load(project / "run.yaml", [quanto, "model.dtype=bfloat16"])).args.bf16
    with pytest.raises(UserError, match=r"train\.bf16: quanto-int8 computes in the type that the base is loaded in"):
        dry_run(RunConfig.load(project / "run.yaml", [quanto, "model.dtype=float32", "train.bf16=true"]))
