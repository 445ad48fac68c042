"""Training on from an adapter that is there: all of it, or the router of assembled LoRAs alone."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from safetensors.torch import load_file
from tiny_project import write_base

from loraweave import load_run
from loraweave.adapters.assemble import assemble
from loraweave.adapters.sparse import sparsify
from loraweave.bases import load_base
from loraweave.errors import UserError
from loraweave.runs.config import RunConfig
from loraweave.training.run import RunResult, train

FAST = ("train.max_steps=3", "train.report_to=none", "train.eval_strategy=no", "train.packing=false")


def run(project: Path, *overrides: str, **arguments: Any) -> RunResult:
    config = RunConfig.load(project / "run.yaml", [*FAST, *overrides])
    return train(config, project / "out", console=Console(file=io.StringIO()), **arguments)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def changed(before: Path, after: Path) -> set[str]:
    """The kinds of tensors in which two adapters of the same names differ."""
    one, other = tensors(before), tensors(after)
    assert one.keys() == other.keys()
    return {name.rsplit(".", 1)[1] for name in one if not torch.equal(one[name], other[name])}


@pytest.fixture
def assembled(project: Path) -> Any:
    """assembled(gate) -> two plain LoRAs of the project's base as one adapter, in experts/ beside the run file."""

    def build(gate: str) -> Path:
        loras = {}
        for seed, name in enumerate(("first", "second")):
            model, _ = load_base(project / "base")
            config = LoraConfig(r=2 + seed, lora_alpha=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
            model = get_peft_model(model, config)
            torch.manual_seed(seed)
            for parameter_name, parameter in model.named_parameters():
                if ".lora_" in parameter_name:
                    torch.nn.init.normal_(parameter, std=0.2)
            model.save_pretrained(project / name)
            loras[name] = project / name
        assemble(loras, project / "experts", gate=gate)
        return project / "experts"

    return build


def test_the_router_of_assembled_loras_is_trained_and_its_experts_keep_their_bits(
    project: Path, assembled: Any
) -> None:
    start = assembled("token")
    result = run(project, "method={adapter: experts}", "train.only=router")
    assert changed(start, result.adapter) == {"weave_router"}
    assert result.trainable_parameters == sum(t.numel() for n, t in tensors(start).items() if "router" in n)
    written = RunConfig.load(result.folder / "run.yaml")
    assert written.method == {"name": "weave", "adapter": str(start.resolve())}
    shutil.rmtree(start)  # the run has all that it needs
    loaded = load_run(result.folder)
    assert loaded.config.train["only"] == "router"


def test_an_assembled_adapter_is_trained_on_whole(project: Path, assembled: Any) -> None:
    start = assembled("token")
    result = run(project, "method={adapter: experts, load_balance: 0.1}")
    assert changed(start, result.adapter) == {"weave_A", "weave_B", "weave_router"}


def test_a_run_that_trains_a_router_goes_on_where_it_stopped(project: Path, assembled: Any) -> None:
    start = assembled("token")
    settings = ("method={adapter: experts}", "train.only=router", "train.save_strategy=steps", "train.save_steps=1")
    whole = run(project, *settings)
    whole = shutil.copytree(whole.folder, project / "whole")
    for name in ("summary.json", "adapter", "checkpoints/checkpoint-3"):
        path = project / "out" / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    again = run(project, *settings, resume=True)
    assert changed(whole / "adapter", again.adapter) == set()
    assert changed(start, again.adapter) == {"weave_router"}


def test_a_sparse_adapter_is_trained_on_where_it_is_not_zero(project: Path) -> None:
    trained = run(project, "method={name: own, r: 2}")
    shutil.move(trained.folder, project / "dense")
    sparsify(project / "dense" / "adapter", 0.5, project / "sparse")
    result = run(project, "method={adapter: sparse}")
    before, after = tensors(project / "sparse"), tensors(result.adapter)
    masks = {name: mask for name, mask in before.items() if name.endswith("weave_B_mask")}
    assert masks
    for name, mask in masks.items():
        assert torch.equal(after[name], mask)
        up = name.replace("weave_B_mask", "weave_B")
        assert not after[up][~mask].any()
        assert not torch.equal(after[up], before[up])


def test_peft_s_own_lora_is_trained_on(project: Path, assembled: Any) -> None:
    assembled("token")
    result = run(project, "method={adapter: first}")
    assert changed(project / "first", result.adapter) == {"weight"}
    assert result.method == "lora"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method={adapter: experts, r: 8}"], r"--set .*: r is the adapter's own, which is trained on as it is"),
        (["method={adapter: experts, rr: 8}"], "unknown field 'rr'"),
        (["method={adapter: nowhere}"], "nowhere: holds neither a run nor an adapter"),
        (["method={adapter: 3}"], "holds neither a run nor an adapter"),
        (["method={name: rlora, adapter: experts}"], "an adapter of the method weave: leave the name out"),
        (["method={name: full, adapter: experts}"], "has no adapter that could be trained on"),
        (
            ["method=hydralora", "train.only=router"],
            r"those of hydralora are new: name one .* method: {adapter: FOLDER}",
        ),
        (["method={adapter: first}", "train.only=router"], r"train\.only: router: this adapter \(lora\) has none"),
        (["method={adapter: experts}", "train.only=experts"], "train.only must be router"),
        (["method={adapter: experts, spectral: 1.0}", "train.only=router"], "spectral .* none of them is trained here"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(project: Path, assembled: Any, overrides: list[str], said: str) -> None:
    assembled("token")
    with pytest.raises(UserError, match=said):
        run(project, *overrides)
    assert not (project / "out").exists()


def test_an_adapter_of_other_tasks_or_another_base_is_refused(project: Path, assembled: Any) -> None:
    assembled("own")
    assemble({name: project / name for name in ("first", "second")}, project / "uniform", gate="uniform")
    with pytest.raises(UserError, match="tensors for the tasks first, second, in this order; the run's tasks are par"):
        run(project, "method={adapter: experts}")
    with pytest.raises(UserError, match=r"train\.only: router: this adapter \(weave\) has none; one with a router"):
        run(project, "method={adapter: uniform}", "train.only=router")
    trained = run(project, "method={name: own, r: 2}")
    shutil.move(trained.folder, project / "before")
    write_base(project / "base", seed=1)
    with pytest.raises(UserError, match="is not the one the adapter was trained on"):
        run(project, "method={adapter: before/adapter}")
