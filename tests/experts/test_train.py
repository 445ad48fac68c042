"""Training experts: alone and together they come out the same, a new one touches no other, and runs go on."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tiny_project import byte_tokenizer, write_project
from typer.testing import CliRunner

import loraweave
from loraweave import ExpertLibrary, UserError
from loraweave.adapters.file import AdapterFile
from loraweave.cli.app import app
from loraweave.evaluation import evaluate
from loraweave.experts.config import ExpertsConfig
from loraweave.experts.train import _groups, _run_folder, _wanted, train_experts
from loraweave.files import hashes_of
from loraweave.runs.folder import RunFolder

TASKS = ["parity.yaml", "double.yaml", {"task": "notes.jsonl", "test": "notes_test.jsonl"}]
SILENT = Console(quiet=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


def config_of(project: Path, **values: Any) -> ExpertsConfig:
    train = {
        "max_steps": 8,
        "max_length": 64,
        "per_device_train_batch_size": 4,
        "report_to": "none",
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
        "save_strategy": "no",
        "eval_strategy": "no",
        "bf16": False,
    }
    method = {"name": "lora", "r": 4, "lora_dropout": 0.0, **values.pop("method", {})}
    train |= values.pop("train", {})
    return ExpertsConfig(
        **{"model": "base", "method": method, "tasks": TASKS, "train": train, "base_dir": str(project), **values}
    )


def tensors(library: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(ExpertLibrary(library).expert(name).folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def alone(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "library"
    train_experts(config_of(project), folder, console=SILENT)
    return folder


@pytest.mark.parametrize(
    "settings",
    [{}, {"train": {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 3, "packing": False}}],
    ids=["packed", "accumulated"],
)
def test_together_they_are_what_they_are_alone(project: Path, alone: Path, tmp_path: Path, settings: Any) -> None:
    if settings:
        alone = tmp_path / "alone"
        train_experts(config_of(project, **settings), alone, console=SILENT)
    train_experts(config_of(project, **settings), tmp_path / "library", together=True, console=SILENT)
    (run,) = (tmp_path / "library" / "runs").iterdir()
    assert run.name.startswith("together-")
    for name in ("parity", "double", "notes"):
        mine, other = tensors(tmp_path / "library", name), tensors(alone, name)
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            torch.testing.assert_close(value, other[key], rtol=1e-3, atol=2e-4)
        moved = [value.abs().max() for key, value in mine.items() if "lora_B" in key]
        assert min(moved) > 1e-2
    configs = [
        json.loads((f / "adapter_config.json").read_text())
        for f in (ExpertLibrary(path).expert("parity").folder for path in (alone, tmp_path / "library"))
    ]
    for each in configs:
        each["target_modules"] = sorted(each["target_modules"])
    assert configs[0] == configs[1]


def test_any_order_gives_the_same_and_a_new_one_touches_no_other(project: Path, alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    train_experts(config_of(project), folder, only=["notes"], console=SILENT)
    before = hashes_of(folder / "experts" / "notes")
    train_experts(config_of(project), folder, only=["parity"], console=SILENT)
    assert hashes_of(folder / "experts" / "notes") == before
    for name in ("notes", "parity"):
        assert all(torch.equal(value, tensors(alone, name)[key]) for key, value in tensors(folder, name).items())
    assert ExpertLibrary(folder).verify() == {}


def test_rank_and_steps_may_differ_and_who_shares_settings_shares_a_run(project: Path, tmp_path: Path) -> None:
    config = config_of(
        project,
        experts={
            "parity": {"method": {"r": 2}, "train": {"max_steps": 3}, "description": "odd or even", "prefixes": ["4"]},
        },
    )
    folder = tmp_path / "library"
    train_experts(config, folder, together=True, console=SILENT)
    library = ExpertLibrary(folder)
    assert {name: expert.rank for name, expert in library.experts().items()} == {"parity": 2, "double": 4, "notes": 4}
    assert (library.expert("parity").description, library.expert("parity").prefixes) == ("odd or even", ("4",))
    assert len(library.expert("double").instructions) == 5
    assert all(text.startswith("Double ") for text in library.expert("double").instructions)
    runs = {path.name: json.loads((path / "summary.json").read_text())["steps"] for path in (folder / "runs").iterdir()}
    assert runs.pop("parity") == 3
    assert list(runs.values()) == [8]
    assert "fingerprint" in library.base
    assert AdapterFile(library.expert("double").folder).sizes


def test_each_is_scored_as_the_run_file_says(project: Path, tmp_path: Path) -> None:
    config = config_of(project, eval={"limit": 4, "forgetting": ["plain_english"]})
    for together in (False, True):
        folder = tmp_path / str(together)
        train_experts(config, folder, only=["double", "notes"], together=together, console=SILENT)
        for name, task in zip(("double", "notes"), config.load_tasks()[1:], strict=True):
            expert = ExpertLibrary(folder).expert(name)
            loaded = loraweave.load(expert.folder)
            expected = evaluate(loaded.model, loaded.tokenizer, [task], limit=4)[name]
            assert set(expert.scores) == {name, "plain_english"}
            assert expert.scores[name]["n"] == 4
            assert expert.plain
            assert expert.scores[name]["score"] == pytest.approx(expected["score"], rel=1e-5)
            assert (expert.scores[name]["metric"], expert.scores[name]["unit"]) == (
                expected["metric"],
                expected["unit"],
            )
            assert expert.scores["plain_english"]["metric"] == "bits_per_byte"
    printed = CliRunner().invoke(app, ["experts", "list", str(folder)]).stdout
    assert f"{expert.scores['notes']['score']:.3g} nats" in printed


def test_what_cannot_be_scored_is_kept_and_told(project: Path, tmp_path: Path) -> None:
    rows = (project / "notes.jsonl").read_text().splitlines()[:1]
    (tmp_path / "one.jsonl").write_text("\n".join(rows) + "\n")
    task = {"task": str(tmp_path / "one.jsonl")}
    console = Console(record=True, file=io.StringIO(), width=200)
    config = config_of(project, tasks=[task], eval={"limit": 4, "forgetting": ["plain_english"]})
    added = train_experts(config, tmp_path / "library", console=console)
    assert set(added["one"].scores) == {"plain_english"}
    assert "no score  one: task 'one': " in console.export_text()


class StopError(Exception):
    """Stands for a kill."""


class Killer:
    """A progress display that ends the run in the middle."""

    def start(self, name: str, steps: int) -> None: ...

    def stop(self) -> None: ...

    def step(self, step: int, *_: Any) -> None:
        if step == 5:
            raise StopError


def test_what_was_interrupted_goes_on(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saving = {"train": {"save_strategy": "steps", "save_steps": 2}}
    whole, folder = tmp_path / "whole", tmp_path / "library"
    for together in (False, True):
        names = ["double", "notes"]
        target, reference = folder / str(together), whole / str(together)
        train_experts(config_of(project, **saving), reference, only=names, together=together, console=SILENT)

        with pytest.raises(StopError):
            train_experts(
                config_of(project, **saving), target, only=names, together=together, console=SILENT, progress=Killer()
            )
        assert ExpertLibrary(target).experts() == {}
        added = train_experts(
            config_of(project, **saving), target, only=names, together=together, console=SILENT, resume=True
        )
        assert list(added) == names
        for name in names:
            got, expected = tensors(target, name), tensors(reference, name)
            for key, value in got.items():
                torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)
        ExpertLibrary(target).remove("notes")  # as if it had been killed before it was added
        before = hashes_of(ExpertLibrary(target).expert("double").folder)
        with monkeypatch.context() as ended:
            ended.setattr("loraweave.experts.train.train", lambda *_, **__: pytest.fail("trained again"))
            again = train_experts(
                config_of(project, **saving), target, only=names, together=together, console=SILENT, resume=True
            )
        assert list(again) == ["notes"]
        assert hashes_of(ExpertLibrary(target).expert("double").folder) == before

        for name in names:
            ExpertLibrary(target).remove(name)
        other = config_of(project, method={"lora_alpha": 64}, **saving)
        with pytest.raises(UserError, match=r"the run that has ended here is another one: method\.lora_alpha was "):
            train_experts(other, target, only=names, together=together, console=SILENT, resume=True)
        assert ExpertLibrary(target).experts() == {}
    assert RunFolder(folder / "False" / "runs" / "notes").summary.is_file()


@pytest.mark.parametrize(
    ("kind", "train", "together"),
    [
        ("llama", {}, True),
        ("llama", {"optim": "adafactor"}, False),  # divides by the size of whole tensors
        ("mixtral", {}, False),  # its router's loss is of a whole batch
        ("mixtral", {"router_aux_loss_coef": 0.0}, True),
    ],
)
def test_who_would_change_each_other_is_trained_alone(
    project: Path, tiny_model: Callable, tmp_path: Path, kind: str, train: dict, together: bool
) -> None:
    config = config_of(project, method={"target_modules": ["q_proj", "v_proj"]}, train=train)
    base = tiny_model(kind), byte_tokenizer()
    base[0].resize_token_embeddings(len(base[1]))
    groups = _groups(_wanted(config, ["double", "notes"]), base, tmp_path)
    assert [[*group] for group in groups] == ([["double", "notes"]] if together else [["double"], ["notes"]])


def test_one_of_a_group_keeps_its_settings_and_its_file(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    (project / "suite.yaml").write_text("group: suite\ntask: [parity, double]\n")
    entry = {"task": "suite.yaml", "chat_template": True}
    for written, wanted in ((entry, {**entry, "task": "parity.yaml"}), ("./suite.yaml", "parity.yaml")):
        found = config_of(project, tasks=[written]).tasks_apart()
        assert [*found] == ["parity", "double"]
        assert found["parity"][0] == wanted


def test_no_two_tasks_share_a_run(tmp_path: Path) -> None:
    library = ExpertLibrary.create(tmp_path / "library", "nano")
    names = ["a b", "a_b", "a!b", "x.unfinished", "x_unfinished", ".x", "x", "日本", "語"]
    folders = [_run_folder(library, name, resume=True) for name in names]
    assert len({str(folder).lower() for folder in folders}) == len(names)
    assert folders[1] == library.folder / "runs" / "a_b"


def test_what_cannot_be_trained_is_refused_before_anything_is(project: Path, alone: Path, tmp_path: Path) -> None:
    def refused(reason: str, folder: Path = tmp_path / "library", only: Any = None, **values: Any) -> None:
        with pytest.raises(UserError, match=reason):
            train_experts(config_of(project, **values), folder, only=only, console=SILENT)

    refused("trains no plain LoRA", experts={"parity": {"method": {"use_dora": True}}})
    refused("no task 'parityy' .*|did you mean", only=["parityy"])
    refused("there is no task 'noes', did you mean 'notes'", experts={"noes": {}})
    refused("has an expert 'parity' already: go on with --resume", alone)
    refused("unknown field", experts={"notes": {"method": {"rank": 2}}})
    refused("Extra inputs|unknown key", experts={"notes": {"rank": 2}})
    with pytest.raises(UserError, match="rlora trains no plain LoRA"):
        train_experts(ExpertsConfig(model="base", method="rlora", tasks=TASKS, base_dir=str(project)), tmp_path / "x")
    assert not (tmp_path / "library").exists()
    assert not (tmp_path / "x").exists()


def test_what_is_no_plain_lora_on_a_base_is_told_before_it_is_trained(
    project: Path, tiny_model: Callable, tmp_path: Path
) -> None:
    """Mixtral's experts are one weight to PEFT, which no library takes."""
    base = tiny_model("mixtral"), byte_tokenizer()
    with pytest.raises(UserError, match="on this base it comes to target_parameters, which is no plain LoRA"):
        train_experts(config_of(project), tmp_path / "library", base=base, console=SILENT)
    assert not (tmp_path / "library").exists()
