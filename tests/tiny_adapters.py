"""Adapters on tiny models: every method, with weights that all do something."""

from contextlib import AbstractContextManager, nullcontext

import torch
from peft import get_peft_model
from torch import nn

import loraweave
from loraweave import WeaveConfig
from loraweave.config import PRESETS

NAMES = ["a", "b"]
IDS = torch.randint(3, 64, (3, 7), generator=torch.Generator().manual_seed(0))
TASKS = ["a", "b", "a"]
METHODS = {"weave": WeaveConfig, **PRESETS}
NEED_TASKS = ("mtllora", "moelora", "own", "lori")
ON_INPUT = (
    "hydralora",
    "rlora",
    "loramoe",
    "mola",
    "smora",
    "mtlora",
    "comol",
)  # heads weighed by x: no fixed change of the weights
FOLDING = tuple(name for name in METHODS if name not in ON_INPUT)


# What presets set for large models, as small as tests want it.
SMALL = {
    "mola": {"num_heads": 3, "heads_by_depth": None},
    "smora": {"num_heads": 6, "top_k": 2},
    "mtlora": {"num_heads": 3, "target_modules": "all-linear"},
}


def preset(name: str, **knobs) -> WeaveConfig:
    """A preset on linear layers, with few heads; with a head for each task, `num_heads` follows from their names."""
    config = METHODS[name]
    if config.gate == "own":
        knobs.pop("num_heads", None)
    return config(**{**SMALL.get(name, {}), **knobs})


def method(name: str, **knobs) -> WeaveConfig:
    """The configuration of a method by name, small, for two tasks."""
    return preset(name, **{"r": 4, "lora_alpha": 8, "task_names": NAMES, "task_type": "CAUSAL_LM", **knobs})


def randomize(model: nn.Module, seed: int = 0, adapter: str = "default") -> None:
    """Draw every tensor of an adapter, so that gates, transforms and anchors are none of their first values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".weave_" in name and name.endswith(f".{adapter}"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def adapted(base: nn.Module, name: str, seed: int = 0, **knobs) -> nn.Module:
    """`base` with a random adapter of a method, in eval mode."""
    model = get_peft_model(base, method(name, **knobs)).eval()
    randomize(model, seed)
    return model


def for_one_task(model: nn.Module, name: str) -> AbstractContextManager:
    """The task that a method with tasks is folded for, set; of another method nothing."""
    return loraweave.task(model, "b") if name in NEED_TASKS else nullcontext()


def logits(model: nn.Module, tasks=TASKS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, **({} if tasks is None else {"tasks": tasks})).logits
