"""Adapters and exports go to the hub, by the real client, to one on this machine; what stands in the way is a line."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from fake_hub import FakeHub, fake_hub
from huggingface_hub import ModelCard
from tiny_project import write_project, write_run_file
from tiny_runs import NAMES, SMALL, random_run

from loraweave.cli.app import run as typed
from loraweave.errors import UserError
from loraweave.export import export
from loraweave.export.push import check_hub, push
from loraweave.runs.loading import load_run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("push") / "project")
    write_run_file(folder)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(monkeypatch) as found:
        yield found


def test_a_runs_adapter_is_sent_as_it_is_with_its_card(project: Path, hub: FakeHub, tmp_path: Path):
    run = random_run(project, {"name": "multilora", **SMALL}, tmp_path / "run")
    (sent,) = push(run, "me/tickets", private=True)
    assert sent.url == f"{hub.url}/me/tickets"
    assert hub.private["me/tickets"] in (True, "private")
    files = hub.files["me/tickets"]
    here = {path.name: path.read_bytes() for path in (run / "adapter").iterdir()}
    assert files.keys() == here.keys()
    assert {name for name in files if files[name] != here[name]} == {"README.md"}
    card = ModelCard(files["README.md"].decode())
    assert "base_model" not in card.data.to_dict()  # a folder of this machine, which the hub does not take
    assert "import loraweave" in card.text
    assert str(project / "base") in sent.notes[0]


@pytest.mark.parametrize(("base", "kept"), [("gpt2", True), ("org/model", True), ("./base", False), ("a/b/c", False)])
def test_the_card_names_a_base_that_the_hub_may_have(
    project: Path, hub: FakeHub, tmp_path: Path, monkeypatch, base: str, kept: bool
):
    run = random_run(project, {"name": "lora", **SMALL}, tmp_path / "run")
    path = run / "adapter" / "README.md"
    card = ModelCard.load(path)
    card.data.base_model = base
    path.write_text(str(card))
    monkeypatch.chdir(tmp_path)
    push(run, "me/one")
    read = ModelCard(hub.files["me/one"]["README.md"].decode())
    assert read.data.to_dict().get("base_model") == (base if kept else None)
    (tmp_path / base).mkdir(parents=True, exist_ok=True)  # a folder of that name is what was meant
    push(run, "me/two")
    assert "base_model" not in ModelCard(hub.files["me/two"]["README.md"].decode()).data.to_dict()


def test_an_export_by_task_goes_to_a_repository_for_each(project: Path, hub: FakeHub, tmp_path: Path):
    run = random_run(project, {"name": "mtllora", **SMALL}, tmp_path / "run")
    export(run, "lora", tmp_path / "out", tasks=NAMES[:2])
    sent = push(tmp_path / "out", "me/tickets")
    assert [each.url for each in sent] == [f"{hub.url}/me/tickets-{name}" for name in sorted(NAMES[:2])]
    with pytest.raises(UserError, match=r"me/x{90}-double: no name of a repository"):
        push(tmp_path / "out", f"me/{'x' * 90}")  # the first of them has too long a name, before anything is sent
    assert not any("xxx" in name for name in hub.files)
    for name in NAMES[:2]:
        assert {"adapter_model.safetensors", "export.json"} <= hub.files[f"me/tickets-{name}"].keys()


def test_what_was_sent_there_before_and_may_be_loaded_instead_is_told(project: Path, hub: FakeHub, tmp_path: Path):
    """transformers puts an adapter in a model's repository on the model that the adapter names."""
    run = random_run(project, {"name": "lora", **SMALL}, tmp_path / "run")
    push(run, "me/one")
    (again,) = push(run, "me/one")
    assert not any("sent there before" in note for note in again.notes)
    export(run, "merged", tmp_path / "out")
    (sent,) = push(tmp_path / "out", "me/one")
    assert sent.notes == (
        "me/one still has adapter_config.json and adapter_model.safetensors, of something else that was sent there "
        "before, which may be loaded in the place of this: remove it there",
    )


def test_train_and_export_send_what_they_made(project: Path, hub: FakeHub, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert typed(["train", str(project / "run.yaml"), "--output", str(out), "--push", "trained"]) == 0
    assert f"pushed    {hub.url}/me/trained" in capsys.readouterr().out
    assert "adapter_model.safetensors" in hub.files["me/trained"]
    command = ["export", str(out), "--to", "lora", "--output", str(tmp_path / "lora"), "--push", "me/plain"]
    assert typed(command) == 0
    assert "export.json" in hub.files["me/plain"]
    assert typed(["push", str(out), "me/again", "--private"]) == 0
    assert hub.private["me/again"] in (True, "private")


def test_what_stands_in_the_way_is_told_before_the_work(
    project: Path, hub: FakeHub, monkeypatch, tmp_path: Path, capsys
):
    with pytest.raises(UserError, match="no name of a repository"):
        check_hub("a/b/c")
    hub.role = "read"
    with pytest.raises(UserError, match=r"--push me/x: the token 'test' may only read"):
        check_hub("me/x")
    hub.role = ""
    with pytest.raises(UserError, match=r"--push me/x: the hub refuses: the token is not valid"):
        check_hub("me/x")
    hub.role, hub.forbidden = "write", True
    run = random_run(project, {"name": "lora", **SMALL}, tmp_path / "run")
    with pytest.raises(UserError, match=r"--push other/x: the hub refuses: the token may not write there"):
        push(run, "other/x")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"--push me/x: the hub is not in reach \(offline\)"):
        check_hub("me/x")
    out = tmp_path / "out"
    assert typed(["train", str(project / "run.yaml"), "--output", str(out), "--push", "me/x"]) == 2
    assert not out.exists()  # nothing was trained
    assert capsys.readouterr().err.count("\n") == 1


def test_nobody_logged_in_is_told(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
    with pytest.raises(UserError, match="nobody is logged in: hf auth login"):
        check_hub("me/x")


def test_a_folder_with_nothing_to_send_is_told(hub: FakeHub, tmp_path: Path):
    with pytest.raises(UserError, match="holds no finished run, no adapter and no export"):
        push(tmp_path, "me/x")
    (tmp_path / "runs" / "lora-seed0").mkdir(parents=True)
    (tmp_path / "results.json").write_text("{}")
    for use in (lambda: push(tmp_path, "me/x"), lambda: load_run(tmp_path)):
        with pytest.raises(UserError, match=r"holds a comparison; name one of its runs, such as .*lora-seed0"):
            use()
    assert hub.files == {}
