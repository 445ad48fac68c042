"""What comes from elsewhere leads nowhere else: no path, link, device or length in a folder makes a command read, write
or send what is not in it, or wait for ever. Each ends in one line."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from loraweave.bases import base_config, load_base
from loraweave.errors import UserError
from loraweave.experts.library import ExpertLibrary
from loraweave.experts.routing import default_embedding
from loraweave.files import check_links, read_json_lines, write_json, written_whole
from loraweave.tasks import load_tasks

Command = Callable[..., tuple[int, str, str]]


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, _, err = result
    assert code == 2, err
    (line,) = [line for line in err.strip().splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody who has nothing to do with it, with a file."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "mine").write_text("keep me")
    return folder


@pytest.fixture
def begun(project: Path, tmp_path: Path, command: Command) -> Path:
    """A run that was stopped at its second step of four, as a run of somebody else's."""
    folder = tmp_path / "begun"
    settings = ["max_steps=4", "save_strategy=steps", "save_steps=2", "eval_strategy=no"]
    more = [each for setting in settings for each in ("--set", f"train.{setting}")]
    assert command("train", project / "run.yaml", "--output", folder, *more)[0] == 0
    for name in ("adapter", "checkpoints/checkpoint-4"):
        shutil.rmtree(folder / name)
    (folder / "summary.json").unlink()
    return folder


@pytest.mark.parametrize(
    "name", ["checkpoints", "metrics.jsonl", "tensorboard", "checkpoints/checkpoint-2/optimizer.pt"]
)
def test_a_run_is_not_gone_on_with_through_a_link(begun: Path, outside: Path, command: Command, name: str) -> None:
    place = begun / name
    if place.is_dir():
        shutil.copytree(place, outside / "there")
        shutil.rmtree(place)
    elif place.exists():
        shutil.move(place, outside / "there")
    place.symlink_to(outside / "there")
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    resume = ("train", begun / "run.yaml", "--output", begun, "--resume")
    refused(command(*resume), str(place), "a link that leads out of the folder")
    assert before == {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}


def test_a_link_within_the_folder_is_no_obstacle(begun: Path, command: Command) -> None:
    (begun / "checkpoints").rename(begun / "elsewhere")
    (begun / "checkpoints").symlink_to("elsewhere")
    assert command("train", begun / "run.yaml", "--output", begun, "--resume")[0] == 0


def test_a_link_that_lies_where_a_file_is_written_aside_is_not_followed(
    trained: Path, outside: Path, command: Command
) -> None:
    for name in ("results.json", "samples.jsonl", "evaluation.html"):
        (trained / f"{name}.unfinished").symlink_to(outside / "mine")
        (trained / name).unlink(missing_ok=True)
        (trained / name).symlink_to(outside / "mine")
    (trained / "results.json").unlink()
    assert command("eval", trained, "--limit", 1, "--no-base")[0] == 0
    assert (outside / "mine").read_text() == "keep me"
    assert not (trained / "samples.jsonl").is_symlink()


def test_a_link_is_not_sent_anywhere(outside: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "inside").write_text("x")
    (folder / "also").symlink_to("inside")
    check_links(folder)
    (folder / "README.md").symlink_to(outside / "mine")
    with pytest.raises(UserError, match=r"README\.md: a link that leads out of the folder"):
        check_links(folder)


def test_a_library_is_not_written_through_a_link(project: Path, outside: Path, tmp_path: Path) -> None:
    (outside / "photographs.loraweave-old").mkdir()
    library = ExpertLibrary.create(tmp_path / "library", str(project / "base"))
    (library.folder / "experts").symlink_to(outside)
    with pytest.raises(UserError, match="experts: a link that leads out of the folder"), library._written():
        pass
    assert (outside / "photographs.loraweave-old").is_dir()


@pytest.mark.parametrize("name", ["run.yaml", "summary.json", "base.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_has_no_end_is_not_read(trained: Path, command: Command, name: str, kind: str) -> None:
    (trained / name).unlink()
    if kind == "pipe":
        os.mkfifo(trained / name)
    else:
        (trained / name).symlink_to("/dev/zero")
    refused(command("eval", trained, "--limit", 1), str(trained))


def test_lines_without_end_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="a pipe or a device"):
        read_json_lines(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("named", ["../../outside/mine", "/dev/zero"])
def test_a_finished_run_has_its_files_in_its_folder(trained: Path, command: Command, named: str) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    write_json(trained / "summary.json", {**summary, "trained_files": {named: "0" * 64}})
    refused(command("eval", trained), "damaged", named)


def test_a_comparison_has_its_runs_in_its_folder(trained: Path, tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "compared"
    folder.mkdir()
    write_json(folder / "results.json", {"runs": [{"adapter": f"../{trained.name}/adapter"}]})
    refused(command("analyze", folder, "--output", tmp_path / "out"), "results.json", "no path in the folder")


def test_a_card_of_somebodys_own_is_left_as_it_is(trained: Path, command: Command) -> None:
    card = trained / "adapter" / "README.md"
    text = card.read_text()
    begin = next(line for line in text.splitlines() if line.startswith("<!--") and "scores" in line)
    for content in (text.partition(begin)[0] + begin, "\xff no card"):
        card.write_bytes(content.encode("latin-1", "replace"))
        assert command("eval", trained, "--no-base")[0] == 0
        assert card.read_bytes() == content.encode("latin-1", "replace")


@pytest.fixture
def base(project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project / "base", tmp_path / "base"))


@pytest.mark.parametrize("named", ["../outside/secret.safetensors", "/outside/secret.safetensors"])
def test_weights_lie_in_their_own_folder(base: Path, outside: Path, named: str) -> None:
    weights = AutoModelForCausalLM.from_pretrained(base).state_dict()
    save_file({name: value.clone() for name, value in weights.items()}, outside / "secret.safetensors")
    (base / "model.safetensors").rename(base / "part.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, named)}
    write_json(base / "model.safetensors.index.json", index)
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json: '.*secret.*' is no path in the folder"):
        load_base(base)


def test_weights_in_parts_are_loaded(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    for path in base.glob("*.safetensors"):
        path.unlink()
    model.save_pretrained(base, max_shard_size="20KB")
    assert (base / "model.safetensors.index.json").is_file()
    again, _ = load_base(base)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_by_code_of_the_hub_is_trusted_or_refused(base: Path, key: str) -> None:
    config = json.loads((base / "config.json").read_text())
    write_json(base / "config.json", {**config, key: "somebody/kernel"})
    with pytest.raises(UserError, match="computes attention by 'somebody/kernel', code of the hub"):
        base_config(base)


def test_a_saved_data_set_has_its_files_in_its_folder(outside: Path, tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([{"prompt": f"{n}", "completion": " x"} for n in range(40)])
    rows.save_to_disk(str(outside / "secret"))
    rows.save_to_disk(str(tmp_path / "one"))
    state = tmp_path / "one" / "state.json"
    (file,) = json.loads(state.read_text())["_data_files"]
    for named in (f"../outside/secret/{file['filename']}", str(outside / "secret" / file["filename"])):
        state.write_text(json.dumps({**json.loads(state.read_text()), "_data_files": [{"filename": named}]}))
        with pytest.raises(UserError, match=r"state\.json: .* is no path in the folder"):
            load_tasks([str(tmp_path / "one")], tmp_path)
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "all"))
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["../outside/secret"]}')
    with pytest.raises(UserError, match=r"dataset_dict\.json: .* is no path in the folder"):
        load_tasks([str(tmp_path / "all")], tmp_path)


def gguf_with(kind: int, length: int, more: bytes = b"") -> bytes:
    """The head of a GGUF file with one list of so many elements of a kind."""
    key = b"tokenizer.ggml.tokens"
    array = struct.pack("<IQ", kind, length) + more
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key + struct.pack("<I", 9) + array


@pytest.mark.parametrize("length", [2**60, 2**21])
@pytest.mark.parametrize("kind", [0, 8, 9])
def test_a_gguf_file_that_announces_more_than_it_holds_is_refused(tmp_path: Path, kind: int, length: int) -> None:
    """A list of numbers, of texts, of lists; the library would read on behind the file's end."""
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    (tmp_path / "evil.gguf").write_bytes(gguf_with(kind, length, b"\0" * 40))
    with pytest.raises(UserError, match=r"evil\.gguf: the GGUF file cannot be loaded"):
        load_base(tmp_path / "evil.gguf")


@pytest.mark.parametrize("content", ['[{"type": "evil.Part"}]', "{}", "[3]", "[", '[{"type": "os.path"}]'])
def test_an_embedding_of_a_folder_brings_no_code(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match=r"modules\.json"):
        default_embedding(str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"peft_type": "LORA", "megatron_config": {"a": 1}, "megatron_core": "antigravity"},
        {"peft_type": "LORA", "layer_replication": [[0, 2], [0, 100_000_000]]},
        {"peft_type": "LORA", "layer_replication": [[0, 9]]},
        {"peft_type": "LORA", "layer_replication": {"a": 1}},
        {"peft_type": "LORA", "init_lora_weights": "pissa_niter_1000000000"},
        {"peft_type": "LORA", "init_lora_weights": "loftq", "loftq_config": {"loftq_iter": 10**9}},
        {"peft_type": "LORA", "init_lora_weights": ["x"], "trainable_token_indices": {"a": "b"}},
        {"peft_type": "LORA", "target_parameters": [3], "use_dora": "yes", "lora_bias": []},
        {"auto_mapping": {"base_model_class": "evil", "parent_library": "antigravity"}},
    ],
)
def test_an_adapters_configuration_imports_and_builds_nothing(
    trained: Path, command: Command, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    monkeypatch.setattr("webbrowser.open", lambda *_: pytest.fail("a module was imported"))
    file = trained / "adapter" / "adapter_config.json"
    write_json(file, {**json.loads(file.read_text()), **changed})
    summary = json.loads((trained / "summary.json").read_text())
    write_json(trained / "summary.json", {key: value for key, value in summary.items() if key != "trained_files"})
    code, _, err = command("eval", trained, "--limit", 1, "--no-base")
    assert code in (0, 2), err
    assert "Traceback" not in err


def test_files_that_are_linked_keep_their_mode(tmp_path: Path) -> None:
    """An export links what its base has too; that is the base's, and may be another user's."""
    (tmp_path / "base").write_text("x")
    (tmp_path / "base").chmod(0o600)
    with written_whole(tmp_path / "export") as unfinished:
        os.link(tmp_path / "base", unfinished / "tokenizer.json")
    assert (tmp_path / "base").stat().st_mode & 0o777 == 0o600
