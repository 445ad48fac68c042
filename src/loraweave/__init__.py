"""Loraweave: one model, many tasks. Multi-task low-rank adapters as ordinary PEFT methods.

import loraweave                                    # registers the method with PEFT
model = peft.get_peft_model(model, loraweave.RLoraConfig())
"""

from loraweave import lowrank
from loraweave.config import (
    HydraLoraConfig,
    MLoraConfig,
    MoeLoraConfig,
    MtlLoraConfig,
    MultiLoraConfig,
    RLoraConfig,
    WeaveConfig,
)
from loraweave.errors import UserError
from loraweave.integrations.trl import with_tasks
from loraweave.tuner import WeaveModel, checkpoint_context, task

__version__ = "0.1.0"

__all__ = [
    "HydraLoraConfig",
    "MLoraConfig",
    "MoeLoraConfig",
    "MtlLoraConfig",
    "MultiLoraConfig",
    "RLoraConfig",
    "UserError",
    "WeaveConfig",
    "WeaveModel",
    "checkpoint_context",
    "lowrank",
    "task",
    "with_tasks",
]
