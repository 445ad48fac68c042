"""What is said to become of an adapter is what `export` does with one, and what is to be typed exists."""

import shlex
from pathlib import Path

import pytest
import typer
from peft import LoraConfig
from tiny_project import write_project
from tiny_runs import BESIDE_BLOCKS, BY_TASK, EXACT, NAMES, ROUTED, SMALL, random_run

from loraweave.cli.app import app
from loraweave.config import MtLoraConfig, WeaveConfig
from loraweave.errors import UserError
from loraweave.export import export
from loraweave.runs.methods import METHODS, choose_method
from loraweave.runs.outlook import HERE, outlook


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("outlook") / "project")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_one(name: str):
    found = outlook(choose_method(name))
    assert found.by_task == (name in BY_TASK)
    if name in BY_TASK:
        assert {found.lora, found.merged, found.served} == {"for each task"}
    elif name in EXACT:
        assert (found.merged, found.served, found.why) == ("yes", "yes", "")
        assert found.lora in ("is one", "yes")
    elif name in (*ROUTED, *BESIDE_BLOCKS):
        assert found.served == HERE
        assert found.lora.startswith("no")
        assert found.why


@pytest.mark.parametrize("name", ["lora", "mlora", "mtllora", "rlora", "mtlora", "dora"])
def test_it_is_what_an_export_does(project: Path, tmp_path: Path, name: str):
    found = outlook(choose_method({"name": name, **SMALL}))
    run = random_run(project, {"name": name, **SMALL}, tmp_path / "run")
    if not found.lora.startswith("no"):
        made = export(run, "lora", tmp_path / "lora")
        assert all(each.exact for each in made)
        assert [each.variant.task for each in made] == (NAMES if found.by_task else [None])
        return
    with pytest.raises(UserError):
        export(run, "lora", tmp_path / "lora")
    if found.averaged:
        assert not export(run, "lora", tmp_path / "lora", tasks=NAMES[:1], limit=2)[0].exact
    if found.merged == "yes":
        assert export(run, "merged", tmp_path / "merged")[0].exact


def test_as_many_heads_as_tasks_may_be_said_before_the_tasks_are_known():
    assert outlook(choose_method({"name": "own", "num_heads": 3})).by_task


def test_more_than_layers_or_whole_blocks_is_no_lora():
    assert outlook(choose_method({"name": "lora", "bias": "all"})).lora == "no"
    assert outlook(choose_method({"name": "mlora", "modules_to_save": ["lm_head"]})).exports == ("merged",)
    assert outlook(choose_method("weave"), WeaveConfig(beside_blocks=True)).served == HERE
    assert outlook(choose_method("mtlora"), MtLoraConfig()).served == HERE  # it is routed too


def test_a_lora_that_is_more_than_its_factors_is_no_plain_one():
    """As export says, which merges it."""
    experts = LoraConfig(target_modules=["q_proj"], target_parameters=["experts.down_proj"])
    for found in (
        outlook(choose_method("lora"), experts),
        outlook(choose_method({"name": "lora", "init_lora_weights": "pissa"})),
        outlook(choose_method({"name": "lora", "trainable_token_indices": [1]})),
    ):
        assert (found.lora, found.exports) == ("no", ("merged",))
        assert "no plain LoRA does the same" in found.why
    assert outlook(choose_method({"name": "lora", "layer_replication": [[0, 2], [1, 3]]})).exports == ()


@pytest.mark.parametrize("name", METHODS)
def test_what_is_to_be_typed_exists(name: str):
    group = typer.main.get_command(app)
    context = group.make_context("loraweave", [], resilient_parsing=True)
    said = outlook(choose_method(name)).commands("runs/a b", ["one", "two"])
    assert said[0] == ("evaluate", "loraweave eval 'runs/a b'")
    trusting = outlook(choose_method(name)).commands("runs/a b", ["one", "two"], trust_code=True)
    assert trusting == [(word, f"{line} --trust-code") for word, line in said]
    for _, line in trusting:
        _, word, *words = shlex.split(line)
        command = group.commands[word]  # type: ignore[attr-defined]
        command.make_parser(type(context)(command, info_name=word, parent=context)).parse_args([*words])
        assert "runs/a b" in words
