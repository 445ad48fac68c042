"""How much memory a run will need on each device, part by part; docs/recipes.md has the model and how far it is off.

Weights, gradients and optimizer states are parameters times bytes. What the forward pass keeps for the backward pass,
and what a step needs on top of that, are counted on a step without values (`fake_step`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from loraweave.bases.quantization import QUANTIZATIONS
from loraweave.estimate.fake_step import Batch, FakeModel, bytes_of
from loraweave.runs.methods import MethodSpec

Device = Literal["gpu", "cpu"]

WEIGHTS: Mapping[Device, torch.dtype] = {"gpu": torch.bfloat16, "cpu": torch.float32}  # as `load_base` has them
# Before the first tensor: CUDA's context and its libraries' workspaces; Python with torch, transformers and their like.
PROCESS: Mapping[Device, int] = {"gpu": 700_000_000, "cpu": 800_000_000}
# What a GPU's allocator holds beyond what is in use, as a share of what comes and goes within a step.
ALLOCATOR: Mapping[Device, float] = {"gpu": 0.05, "cpu": 0.0}

_BLOCKWISE = 1 + 4 / 256  # bytes of a number in eight bits, with a scale for every 256
OPTIMIZER_BYTES: Mapping[str, float] = {
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "adamw_apex_fused": 8,
    "paged_adamw_32bit": 8,
    "adamw_8bit": 2 * _BLOCKWISE,
    "adamw_bnb_8bit": 2 * _BLOCKWISE,
    "paged_adamw_8bit": 2 * _BLOCKWISE,
    "lion_32bit": 4,
    "lion_8bit": _BLOCKWISE,
    "adagrad": 4,
    "rmsprop": 4,
    "sgd": 0,
}
"""Bytes of state for each trained parameter, by the names of `TrainingArguments.optim`; others are not modelled."""


@dataclass(frozen=True)
class StepPlan:
    """What of a run's settings bears on its memory.

    Args:
        batch: of a micro-batch on one device.
        validation: of a validation batch; None without validation.
        autocast: the type to compute in; None for the weights' own.
        checkpointing: gradient checkpointing.
        accumulate: several micro-batches to a step.
        optim: as TrainingArguments names it.
        only: what of the adapter is trained alone; None for all of it.
    """

    batch: Batch
    validation: Batch | None
    autocast: torch.dtype | None
    checkpointing: bool
    accumulate: bool
    optim: str
    only: str | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        base: weights of the base, frozen or trained.
        adapter: weights of the adapter, frozen ones too.
        optimizer: its states; None where it is not modelled.
        gradients: of the trained parameters, at the time when a step holds most.
        activations: kept for the backward pass.
        working: what a step holds beyond these when it holds most, such as the logits of some tokens.
        exchange: what devices need to work together: DDP's buckets, the blocks that FSDP gathers.
        process: what is there before the first tensor, and what a GPU's allocator keeps.
        forward: what a validation batch holds beyond weights and states.
        trained: parameters. block: bytes of the largest block. outside: bytes of the weights outside of blocks.
    """

    base: int
    adapter: int
    optimizer: int | None
    gradients: int
    activations: int
    working: int
    exchange: int
    process: int
    forward: int
    trained: int
    block: int
    outside: int

    @property
    def standing(self) -> int:
        """What is there all the time."""
        return self.base + self.adapter + (self.optimizer or 0) + self.exchange + self.process

    @property
    def training(self) -> int:
        """A training step, in all."""
        return self.standing + self.gradients + self.activations + self.working

    @property
    def validation(self) -> int:
        """A validation batch, in all."""
        return self.standing + self.forward

    @property
    def peak(self) -> int:
        """What the device must have."""
        return max(self.training, self.validation)

    def data_parallel(self) -> "Memory":
        """Each device has all of it, and DDP's buckets, as large as the gradients."""
        return replace(self, exchange=4 * self.trained)

    def sharded(self, devices: int) -> "Memory":
        """FSDP: each device has its part of weights, gradients and states, and gathers what it works on.

        Two blocks at a time, the second fetched while the first is worked on, and what belongs to no block.
        """
        part = {
            name: -(-value // devices)
            for name in ("base", "adapter", "optimizer", "gradients")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **part, exchange=2 * self.block + self.outside)


def estimate(
    config: PretrainedConfig,
    spec: MethodSpec,
    task_names: Sequence[str],
    plan: StepPlan,
    device: Device,
    weights: torch.dtype | None = None,
    quantization: str | None = None,
) -> Memory:
    """The memory of a run on one device, if every row is full and every position scored: the most that it can need.

    Args:
        config: of the base. Weights that are quantised count by their bits.
        spec: the method.
        task_names: the run's tasks.
        plan: sizes and settings.
        device: its kind.
        weights: type of the base's; by default as `load_base` has it, bfloat16 on a GPU and float32 on a CPU.
        quantization: of its linear layers when they are loaded, by its name in a run file.

    Raises:
        Exception: whatever a model raises that looks at values on its way, since there are none.
    """
    dtype = weights or WEIGHTS[device]
    model = FakeModel(config, spec, task_names, dtype, plan.only, plan.autocast)
    saved, unpacked = _quantised(config, dtype, quantization)
    settings: dict[str, Any] = {"autocast": plan.autocast, "on_gpu": device == "gpu"}
    step = model.train(plan.batch, checkpointing=plan.checkpointing, accumulate=plan.accumulate, **settings)
    forward = model.validate(plan.validation, **settings).most if plan.validation is not None else 0
    trained = sum(p.numel() for p in model.trained)
    state = OPTIMIZER_BYTES.get(plan.optim)
    blocks = [m for m in model.base.modules() if type(m).__name__ in (model.base._no_split_modules or ())]
    sizes = [bytes_of(block) for block in blocks]
    return Memory(
        base=model.base_bytes - saved,
        adapter=model.adapter_bytes,
        optimizer=None if state is None else int(state * trained),
        gradients=step.gradients,
        activations=step.kept,
        working=step.most - step.gradients - step.kept + unpacked,
        exchange=0,
        process=PROCESS[device] + int(ALLOCATOR[device] * max(step.most, forward)),
        forward=forward,
        trained=trained,
        block=max(sizes, default=0),
        outside=max(0, model.base_bytes + model.adapter_bytes - sum(sizes)),
    )


def _quantised(config: PretrainedConfig, dtype: torch.dtype, quantization: str | None) -> tuple[int, int]:
    """Bytes that quantisation saves, and those of the largest layer when it is unpacked for a product.

    Of all linear layers but the head. Weights that come quantised have `bits` each, and a scale of four bytes for every
    64 of them: about what bitsandbytes, GPTQ, AWQ and FP8 keep. A `quantization_config` that does not tell its bits
    saves nothing.
    """
    given = getattr(config, "quantization_config", None) or {}
    get = given.get if isinstance(given, Mapping) else lambda key: getattr(given, key, None)
    bits = get("bits") or (4 if get("load_in_4bit") else 8 if get("load_in_8bit") else None)
    each = bits / 8 + 4 / 64 if bits else dtype.itemsize
    if quantization is not None:
        each = QUANTIZATIONS[quantization].bytes
    if each == dtype.itemsize:
        return 0, 0
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    head = model.get_output_embeddings()
    sizes = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    return int(sum(sizes) * (dtype.itemsize - each)), max(sizes, default=0) * dtype.itemsize
