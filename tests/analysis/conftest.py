"""Adapters in files, and finished runs of the small project, for the tests of what is read from them."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_adapters
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from tiny_project import write_project, write_run_file
from torch import nn

from loraweave.runs.config import RunConfig
from loraweave.training.run import train

PLAIN = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


def adapted(base: nn.Module, name: str, **knobs) -> nn.Module:
    """A random adapter of a preset or of PEFT's LoRA, in float64. Routers are zero: all heads weigh alike."""
    if name in PLAIN:
        config = LoraConfig(
            **{"r": 3, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False, **knobs},
            **PLAIN[name],
        )
        torch.manual_seed(0)
        return get_peft_model(base, config).double()
    model = tiny_adapters.adapted(base, name, **knobs).double()
    for key, parameter in model.named_parameters():
        if ".weave_router." in key:
            parameter.data.zero_()
    return model


@pytest.fixture
def saved(tiny_model, tmp_path) -> Callable[..., tuple[nn.Module, Path]]:
    """saved(method, **knobs) -> a model with that adapter, and the folder that it is saved in."""

    def build(name: str, architecture: str = "llama", folder: str | None = None, **knobs) -> tuple[nn.Module, Path]:
        model = adapted(tiny_model(architecture, dtype=torch.float64), name, **knobs)
        model.save_pretrained(tmp_path / (folder or name))
        return model, tmp_path / (folder or name)

    return build


RUNS = {
    "lora": (),
    "rlora": (),
    "mtllora": (),
    "full": ("train.learning_rate=1e-3",),
    "parity-alone": ("method=lora", "tasks=[parity.yaml]", "mixture=equal"),
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs of a few steps by name, the last of a single task; their base is `base` beside them."""
    project = write_project(tmp_path_factory.mktemp("analysed"))
    write_run_file(project)
    for name, overrides in RUNS.items():
        config = RunConfig.load(project / "run.yaml", [f"method={name}" if "-" not in name else "seed=0", *overrides])
        train(config, project / name, console=Console(file=io.StringIO()))
    return {name: project / name for name in [*RUNS, "base"]}
