"""A library of experts: what goes in comes out bit for bit, for PEFT alone too; what is not as it was is refused."""

import json
import multiprocessing
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_adapters import adapted, logits
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from loraweave import UserError
from loraweave.cli.app import app
from loraweave.experts.library import ExpertLibrary
from loraweave.files import hashes_of, write_json
from loraweave.locks import locked


def edit(library: ExpertLibrary, change: Callable[[dict[str, Any]], Any]) -> None:
    path = library.folder / "library.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_an_expert_is_the_very_lora_and_peft_reads_it_by_itself(
    library: ExpertLibrary, loras: dict[str, Path], base_folder: Path
) -> None:
    assert list(library.experts()) == list(loras)
    for name, lora in loras.items():
        expert = library.expert(name)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            assert (expert.folder / file).read_bytes() == (lora / file).read_bytes()
        outputs = []
        for folder in (lora, expert.folder):
            base = AutoModelForCausalLM.from_pretrained(base_folder)
            outputs.append(logits(PeftModel.from_pretrained(base, str(folder)).eval(), None))
        assert torch.equal(*outputs)
    assert [library.expert(name).rank for name in loras] == [2, 5, 6]
    assert library.verify() == {}


def test_a_revision_of_the_base_is_kept(make_lora: Callable, tmp_path: Path) -> None:
    lora = make_lora(tmp_path / "lora")
    config = lora / "adapter_config.json"

    def of(revision: str) -> None:
        values = {"base_model_name_or_path": "org/model", "revision": revision}
        config.write_text(json.dumps({**json.loads(config.read_text()), **values}))

    of("v2")
    library = ExpertLibrary.of_lora(tmp_path / "library", lora)
    assert library.base == {"name": "org/model", "revision": "v2"}
    library.add(lora, "one")
    of("v3")
    with pytest.raises(UserError, match=r"of the revision v3 of org/model, and the library .* is of v2; .*--base"):
        library.add(lora, "other")
    library.add(lora, "other", base="org/model")
    assert library.base == {"name": "org/model", "revision": "v2"}


def test_adding_replacing_and_removing_leave_the_others_as_they_are(
    library: ExpertLibrary, make_lora: Callable, tmp_path: Path
) -> None:
    before = hashes_of(library.expert("small").folder), library.expert("small")
    new = make_lora(tmp_path / "new", seed=9)
    library.add(new, description="another", instructions=["do it"])
    replaced = library.add(new, "wide", replace=True)
    library.remove("patterns")
    library.describe("new", description="the new one")
    assert list(library.experts()) == ["small", "wide", "new"]
    assert (hashes_of(library.expert("small").folder), library.expert("small")) == before
    assert library.expert("wide") == replaced
    assert library.expert("new").description == "the new one"
    assert library.expert("new").instructions == ("do it",)
    assert sorted(path.name for path in (library.folder / "experts").iterdir()) == sorted(
        expert.folder.name for expert in library.experts().values()
    )
    with pytest.raises(UserError, match=r"no expert 'wid', did you mean 'wide'\? \(there are small, wide, new\)"):
        library.remove("wid")
    with pytest.raises(UserError, match="there is an expert 'small' already"):
        library.add(new, "small")


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_flipped_bit_is_found_wherever_it_is(library: ExpertLibrary, file: str) -> None:
    path = library.expert("small").folder / file
    content, draw = path.read_bytes(), random.Random(0)
    places = [*range(0, 8), *(draw.randrange(len(content)) for _ in range(60))]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        assert list(library.verify()) == ["small"]
        with pytest.raises(UserError):
            library.load("small")
    path.write_bytes(content)
    assert library.verify() == {}


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_files_that_are_not_as_they_were_are_refused_and_named(library: ExpertLibrary, file: str) -> None:
    path = library.expert("wide").folder / file
    if file.endswith("json"):
        path.write_text(path.read_text() + " ")
    else:
        tensors = load_file(path)
        next(iter(tensors.values()))[0, 0] += 1e-3
        save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"'wide' is damaged: {file} is not as it was written"):
        library.load("wide")
    assert list(library.verify()) == ["wide"]
    library.load("small")
    shutil.rmtree(library.expert("small").folder)
    with pytest.raises(UserError, match="the folder of the expert 'small' is missing"):
        library.load("small")


def test_what_cannot_be_an_expert_is_refused_with_its_reason(
    library: ExpertLibrary, make_lora: Callable, tiny_model: Callable, loras: dict[str, Path], tmp_path: Path
) -> None:
    before = hashes_of(library.folder)

    def refused(reason: str, source: Path, name: str | None = "it", **settings: Any) -> None:
        with pytest.raises(UserError, match=reason):
            library.add(source, name, **settings)
        assert hashes_of(library.folder) == before

    base = str(library.base["name"])
    refused("DoRA cannot be an expert", make_lora(tmp_path / "dora", use_dora=True))
    refused("which changes the base", make_lora(tmp_path / "pissa", init_lora_weights="pissa"))
    refused("modules_to_save", make_lora(tmp_path / "whole", modules_to_save=["norm"]))
    for method, reason in (
        ("own", "`loraweave split` makes one"),
        ("mlora", "export --to lora"),
        ("rlora", "by the input"),
    ):
        adapted(tiny_model(), method).save_pretrained(str(tmp_path / method))
        refused(reason, tmp_path / method, base=base)
    broken = shutil.copytree(loras["small"], tmp_path / "broken")
    tensors = load_file(broken / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, broken / "adapter_model.safetensors", metadata={"format": "pt"})
    refused("NaN", broken)
    newer = shutil.copytree(loras["small"], tmp_path / "newer")
    config = json.loads((newer / "adapter_config.json").read_text())
    write_json(newer / "adapter_config.json", {**config, "use_squares": True})
    refused(r"use_squares is True, a field that PEFT [\d.]+ does not know", newer)
    refused("holds neither a run nor an adapter", tmp_path)
    for bias in ("all", "lora_only"):
        refused("bias='", make_lora(tmp_path / bias, bias=bias))
    refused("lora_bias cannot be an expert", make_lora(tmp_path / "lora_bias", lora_bias=True))
    refused("layer_replication cannot", make_lora(tmp_path / "replicated", layer_replication=[[0, 2], [1, 2]]))
    refused("embed_tokens", make_lora(tmp_path / "embedding", target_modules=["embed_tokens"]))
    for name in ("base", "auto", "a/b", "a:b", " a", "", ".."):
        refused("cannot be called", loras["small"], name)
    refused("instructions: a list of texts", loras["small"], instructions="one")


def test_loras_of_another_base_are_refused(
    library: ExpertLibrary, loras: dict[str, Path], make_lora: Callable, tmp_path: Path, base_folder: Path
) -> None:
    other = shutil.copytree(base_folder, tmp_path / "other")
    lora = make_lora(tmp_path / "lora", base=other)
    with pytest.raises(UserError, match=r"of the base .*other, and the library .* name the library's base with --base"):
        library.add(lora)
    assert library.add(lora, base=str(base_folder)).fingerprint is None  # the same, as the user says
    for folder, value in ((loras["small"], "0" * 16), (lora, "1" * 16)):
        marked = shutil.copytree(folder, tmp_path / value)
        write_json(marked / "base.json", {"name": str(base_folder), "fingerprint": value})
    library.add(tmp_path / ("0" * 16))
    assert library.base["fingerprint"] == "0" * 16
    with pytest.raises(UserError, match=f"fingerprint {'1' * 16}; the library .* with {'0' * 16}"):
        library.add(tmp_path / ("1" * 16), base=str(base_folder))
    grown = shutil.copytree(loras["small"], tmp_path / "grown")
    tensors = {
        k: torch.cat([t, t], 1) if "lora_A" in k else t
        for k, t in load_file(grown / "adapter_model.safetensors").items()
    }
    save_file(tensors, grown / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="they are of different bases"):
        library.add(grown)


def test_a_manifest_that_is_not_ours_is_refused(library: ExpertLibrary, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no library of experts"):
        ExpertLibrary(tmp_path / "nowhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UserError, match="holds something else"):
        ExpertLibrary.create(tmp_path / "mine", "nano")
    with pytest.raises(UserError, match="of the base nano, and the library"):
        ExpertLibrary.create(library.folder, "nano")
    edit(library, lambda content: content["experts"]["small"].update(folder="../../outside"))
    with pytest.raises(UserError, match=r"'\.\./\.\./outside' is no name of a file or folder"):
        library.load("small")
    edit(library, lambda content: content["experts"]["small"].update(folder="small", rank="two"))
    with pytest.raises(UserError, match=r"experts\.small\.rank"):
        library.experts()
    edit(library, lambda content: content.update(format=2))
    with pytest.raises(UserError, match="of format"):
        ExpertLibrary(library.folder)


def test_a_folder_that_the_manifest_does_not_know_is_told_and_nothing_is_done_to_it(
    library: ExpertLibrary, loras: dict[str, Path]
) -> None:
    stray = library.folder / "experts" / "new"
    shutil.copytree(loras["small"], stray)  # a writer was killed before it could write the manifest
    assert list(library.verify()) == ["experts/new"]
    assert library.add(loras["small"], "new").folder.name == "new-2"
    assert stray.is_dir()


@pytest.mark.parametrize(
    "name", ["x.unfinished", "x.loraweave-old", "x.old", "x.lock", "été 7", "日本", "a*b?", "CON", "-r"]
)
def test_an_expert_of_any_name_is_still_there_after_the_next_writer(
    name: str, library: ExpertLibrary, loras: dict[str, Path]
) -> None:
    library.add(loras["wide"], name)
    library.add(loras["small"], "x")
    library.add(loras["small"], "x", replace=True)
    assert library.verify() == {}
    assert library.load(name).parameters == library.expert("wide").parameters
    library.remove(name)
    assert list(library.experts()) == [*loras, "x"]
    assert library.verify() == {}


def test_a_copy_that_a_person_has_put_aside_is_left_to_them(library: ExpertLibrary) -> None:
    kept = library.folder / "experts" / "small.old"
    shutil.copytree(library.expert("small").folder, kept)
    library.describe("small", description="it")
    assert kept.is_dir()
    assert list(library.verify()) == ["experts/small.old"]


def _add(folder: Path, lora: Path, name: str) -> None:
    ExpertLibrary(folder).add(lora, name)


def test_writers_wait_for_each_other_and_none_is_lost(library: ExpertLibrary, loras: dict[str, Path]) -> None:
    names = [f"new{number}" for number in range(6)]
    threads = [threading.Thread(target=_add, args=(library.folder, loras["small"], name)) for name in names]
    with locked(library.folder):
        for thread in threads:
            thread.start()
        assert not any(name in library.experts() for name in names)
    for thread in threads:
        thread.join()
    assert set(names) < set(library.experts())
    assert library.verify() == {}


def _replace_again_and_again(folder: Path, loras: list[Path], done: Any) -> None:
    library, number = ExpertLibrary(folder), 0
    while not done.is_set():
        library.add(loras[number % 2], "small", replace=True)
        number += 1


@pytest.mark.parametrize("who", ["thread", pytest.param("process", marks=pytest.mark.long)])
def test_readers_see_one_expert_or_the_other_while_another_replaces_it(
    who: str, library: ExpertLibrary, make_lora: Callable, tmp_path: Path
) -> None:
    loras = [make_lora(tmp_path / str(seed), seed) for seed in (20, 21)]
    library.add(loras[0], "small", replace=True)
    contents = [load_file(lora / "adapter_model.safetensors") for lora in loras]
    spawn = multiprocessing.get_context("spawn")
    done: Any = spawn.Event() if who == "process" else threading.Event()
    start: Any = spawn.Process if who == "process" else threading.Thread
    writer, seen = start(target=_replace_again_and_again, args=(library.folder, loras, done)), set()
    writer.start()
    try:
        reads = 0
        while (len(seen) < 2 or reads < 300) and writer.is_alive():
            adapter = library.load("small")
            read = {key: adapter.tensor(key) for key in adapter.names}
            (which,) = [
                n for n, content in enumerate(contents) if all(torch.equal(read[k], content[k]) for k in content)
            ]
            seen.add(which)
            reads += 1
    finally:
        done.set()
        writer.join()
    assert getattr(writer, "exitcode", 0) == 0
    assert seen == {0, 1}
    assert library.verify() == {}


def test_the_commands_add_list_verify_and_remove(loras: dict[str, Path], base_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"

    def loraweave(*arguments: Any) -> str:
        result = CliRunner().invoke(app, ["experts", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout

    loraweave(
        "add", folder, loras["wide"], "--description", "all of it", "--instruction", "go", "--instruction", "come"
    )
    loraweave("add", folder, loras["small"], "--name", "tiny")
    printed = loraweave("list", folder)
    assert str(base_folder) in printed.replace("\n", "")
    assert [line.split()[:2] for line in printed.splitlines()[2:]] == [["wide", "5"], ["tiny", "2"]]
    assert "all of it" in printed
    assert ExpertLibrary(folder).expert("wide").instructions == ("go", "come")
    assert "2 experts, all as they were added" in loraweave("verify", folder)
    loraweave("remove", folder, "tiny")
    (ExpertLibrary(folder).expert("wide").folder / "adapter_config.json").unlink()
    with pytest.raises(UserError, match="not as it should be: wide"):
        loraweave("verify", folder)
    with pytest.raises(UserError, match="holds neither a run nor an adapter"):
        loraweave("add", tmp_path / "new", tmp_path / "nothing")
    assert not (tmp_path / "new").exists()


def test_a_writer_at_work_is_no_fault(library: ExpertLibrary, loras: dict[str, Path]) -> None:
    wrote = []

    def write(name: str) -> None:
        if not wrote:
            wrote.append(name)
            library.add(loras["patterns"], "small", replace=True)
            library.add(loras["small"], "new")

    assert library.verify(write) == {}
    assert wrote == ["small"]
