"""Loraweave: one model, many tasks. Multi-task low-rank adapters as ordinary PEFT methods.

import loraweave                                    # registers the method with PEFT, whichever is imported first
model = peft.get_peft_model(model, loraweave.RLoraConfig())

from loraweave import train, evaluate, compare, analyze, load_run, RunConfig     # the commands as functions
"""

import importlib
from typing import TYPE_CHECKING, Any

from loraweave.errors import UserError
from loraweave.registration import register_with_peft

if TYPE_CHECKING:
    from loraweave import lowrank
    from loraweave.adapters.assemble import assemble, split
    from loraweave.adapters.sparse import sparsify
    from loraweave.commands import Analysis, Evaluation, analyze, evaluate
    from loraweave.comparison import Comparison, compare
    from loraweave.config import (
        ComolConfig,
        HydraLoraConfig,
        LoraMoeConfig,
        LoriConfig,
        MLoraConfig,
        MoeLoraConfig,
        MolaConfig,
        MtlLoraConfig,
        MtLoraConfig,
        MultiLoraConfig,
        OwnLoraConfig,
        RLoraConfig,
        SmoraConfig,
        WeaveConfig,
    )
    from loraweave.evaluation.loaded import Loaded, load
    from loraweave.experts.library import ExpertLibrary
    from loraweave.experts.manager import ExpertManager
    from loraweave.integrations.trl import with_tasks
    from loraweave.runs.config import RunConfig
    from loraweave.runs.loading import Run, load_run
    from loraweave.training.run import RunResult, train
    from loraweave.tuner import WeaveModel, checkpoint_context, task

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "ComolConfig",
    "Comparison",
    "Evaluation",
    "ExpertLibrary",
    "ExpertManager",
    "HydraLoraConfig",
    "Loaded",
    "LoraMoeConfig",
    "LoriConfig",
    "MLoraConfig",
    "MoeLoraConfig",
    "MolaConfig",
    "MtLoraConfig",
    "MtlLoraConfig",
    "MultiLoraConfig",
    "OwnLoraConfig",
    "RLoraConfig",
    "Run",
    "RunConfig",
    "RunResult",
    "SmoraConfig",
    "UserError",
    "WeaveConfig",
    "WeaveModel",
    "analyze",
    "assemble",
    "checkpoint_context",
    "compare",
    "evaluate",
    "load",
    "load_run",
    "lowrank",
    "sparsify",
    "split",
    "task",
    "train",
    "with_tasks",
]

# What is loaded when it is first asked for, and from where: PEFT and PyTorch take seconds.
_HOMES = {
    **{name: "loraweave.config" for name in __all__ if name.endswith("Config")},
    **dict.fromkeys(("assemble", "split"), "loraweave.adapters.assemble"),
    "sparsify": "loraweave.adapters.sparse",
    "WeaveModel": "loraweave.tuner",
    "checkpoint_context": "loraweave.tuner",
    "task": "loraweave.tuner",
    "ExpertLibrary": "loraweave.experts.library",
    "ExpertManager": "loraweave.experts.manager",
    "with_tasks": "loraweave.integrations.trl",
    "RunConfig": "loraweave.runs.config",
    **dict.fromkeys(("Loaded", "load"), "loraweave.evaluation.loaded"),
    **dict.fromkeys(("Run", "load_run"), "loraweave.runs.loading"),
    **dict.fromkeys(("RunResult", "train"), "loraweave.training.run"),
    **dict.fromkeys(("Analysis", "Evaluation", "analyze", "evaluate"), "loraweave.commands"),
    **dict.fromkeys(("Comparison", "compare"), "loraweave.comparison"),
}


def __getattr__(name: str) -> Any:
    if name == "lowrank":
        return importlib.import_module("loraweave.lowrank")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_peft()
