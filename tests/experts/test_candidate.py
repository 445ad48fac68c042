"""What a LoRA brings that becomes an expert: its name, its base, what its prompts were; its tokenizer stays behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import random_run

from loraweave.bases import fingerprint, load_base
from loraweave.data.mixture import Realised
from loraweave.errors import Notice
from loraweave.experts.library import ExpertLibrary
from loraweave.files import read_json, write_json


def test_a_finished_run_brings_its_name_and_its_base_s_fingerprint(base_folder: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    shutil.copytree(base_folder, project / "base")
    (project / "notes.jsonl").write_text(json.dumps({"prompt": "a", "completion": " b"}) + "\n")
    run = random_run(project, {"name": "lora", "r": 2}, tmp_path / "run", tasks=["notes.jsonl"])
    got = dict.fromkeys(Realised.__annotations__, 1)
    summary = read_json(run / "summary.json") | {"mixture": [got | {"task": "notes"}]}
    write_json(run / "summary.json", summary)
    (project / "notes.jsonl").unlink()  # what it is called is known without its data
    library = ExpertLibrary.of_lora(tmp_path / "library", run)
    for chat, plain in ((False, True), (True, False)):
        write_json(run / "splits.json", {"notes": {"chat_template": chat}})
        added = library.add(run, replace=True)
        assert (added.name, added.plain, library.expert("notes").plain) == ("notes", plain, plain)
    model, _ = load_base(project / "base")
    assert library.base == {"name": str(project / "base"), "fingerprint": fingerprint(model)}


def test_a_lora_is_called_as_its_folder_is_or_as_on_the_hub(
    library: ExpertLibrary, loras: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.remove("small")
    monkeypatch.chdir(loras["small"])
    assert library.add(".").name == "small"
    snapshot = shutil.copytree(loras["small"], tmp_path / "snapshots" / "0123abcd")
    write_json(snapshot / "base.json", {"name": library.base["name"], "fingerprint": "f" * 16})

    def download(_: str, allow_patterns: list[str]) -> str:
        fetched = tmp_path / "fetched" / "0123abcd"
        shutil.copytree(snapshot, fetched, ignore=lambda _, names: [n for n in names if n not in allow_patterns])
        return str(fetched)

    monkeypatch.setattr("loraweave.adapters.loras.snapshot_download", download)
    added = library.add("somebody/my-lora")
    assert (added.name, added.source, added.fingerprint) == ("my-lora", "somebody/my-lora", "f" * 16)


def test_another_tokenizer_beside_a_lora_is_said(
    library: ExpertLibrary, make_lora: Callable, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """An expert answers through the base's."""
    lora = make_lora(tmp_path / "lora")
    _, tokenizer = load_base(library.base["name"])
    tokenizer.save_pretrained(lora)
    library.add(lora, "same")
    assert Notice not in [each.category for each in recwarn.list]
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(lora)
    with pytest.warns(Notice, match="the tokenizer in .*lora has another chat template than that of .*, which is used"):
        library.add(lora, "other")
    assert sorted(path.name for path in library.expert("other").folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
