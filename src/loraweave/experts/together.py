"""Several experts in one run: one head each of a single adapter, and batches in which every expert has its own rows.

Each expert gets, step by step, the very rows that it would get alone, the mean loss over its own tokens, its own
gradient norm to be clipped by, and the first values that it would have alone. AdamW goes by single numbers. So what
comes out for one does not depend on who else is there, but for rounding, and dropout where there is any.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from rich.console import Console
from torch import Tensor
from torch.utils.data import Dataset

from loraweave.bases import Base
from loraweave.data.mixture import Mixture, MixtureConfig
from loraweave.data.plan import RowPlan, validation_plan
from loraweave.data.prepare import RunData
from loraweave.data.rows import PackedRow, TokenRows
from loraweave.errors import UserError
from loraweave.runs.adapting import adapted
from loraweave.runs.methods import ChosenMethod
from loraweave.runs.resolve import ResolvedRun
from loraweave.tasks import Task
from loraweave.training.recipe import Recipe
from loraweave.training.trainer import MultiTaskTrainer
from loraweave.tuner import WeaveLinear

FIELDS = frozenset(
    "r lora_alpha lora_dropout use_rslora target_modules exclude_modules rank_pattern alpha_pattern "
    "layers_to_transform layers_pattern".split()
)
"""What a LoRA may say to be trained with others: what has the same meaning for an adapter of several heads."""


class TogetherPlan(Dataset[PackedRow]):
    """The rows of all experts, step by step: of each micro-batch of each expert those that it would get alone, and
    blank ones where it would get fewer.

    Args:
        rows: the examples of all.
        plans: of each alone; and the number of its first example among all.
        batch: rows of a micro-batch of one expert. accumulation: micro-batches of a step. steps: of the run.
    """

    def __init__(
        self, rows: TokenRows, plans: Sequence[tuple[RowPlan, int]], batch: int, accumulation: int, steps: int
    ) -> None:
        self.rows = rows
        self.packed = plans[0][0].packed
        self._plans, self._batch, self._accumulation, self._steps = list(plans), batch, accumulation, steps
        self._tokens: np.ndarray | None = None

    def __len__(self) -> int:
        return self._steps * self._accumulation * len(self._plans) * self._batch

    def __getitem__(self, index: int) -> PackedRow:
        return self.rows.joined(self.examples_at(index))

    def examples_at(self, index: int) -> np.ndarray:
        """The examples in one row; none in a blank one."""
        micro, within = divmod(index, len(self._plans) * self._batch)
        which, place = divmod(within, self._batch)
        step, turn = divmod(micro, self._accumulation)
        plan, first = self._plans[which]
        per_step = self._batch * self._accumulation
        epoch, step = divmod(step, math.ceil(len(plan) / per_step))
        row = step * per_step + turn * self._batch + place
        if index < 0 or row >= len(plan):
            return np.empty(0, dtype=np.int64)
        return plan.examples_at(epoch * len(plan) + row) + first

    def seen(self, count: int) -> np.ndarray:
        """(examples,) how often each is in the first `count` rows."""
        times = np.zeros(len(self.rows), dtype=np.int64)
        for index in range(count):
            np.add.at(times, self.examples_at(index), 1)
        return times

    def tokens(self, count: int) -> int:
        """Tokens in the first `count` rows."""
        if self._tokens is None:
            lengths = [int(self.rows.lengths[self.examples_at(index)].sum()) for index in range(len(self))]
            self._tokens = np.cumsum([0, *lengths])
        return int(self._tokens[count])


class TogetherTrainer(MultiTaskTrainer):
    """The mean over each task's own tokens, added up; and each head's gradient clipped by its own norm."""

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        """The scored tokens of each task in a step, (K,)."""
        counts = torch.zeros(len(self.task_losses["train"].names), device=device)
        for batch in batch_samples:
            tasks = batch["tasks"].flatten()[batch["scored"] + 1].to(device)
            counts.index_add_(0, tasks, torch.ones(len(tasks), device=device))
        return counts

    def mean_loss(self, losses: Tensor, tasks: Tensor, items: Any) -> Tensor:
        if not isinstance(items, Tensor) or items.ndim != 1:
            return super().mean_loss(losses, tasks, items)
        return (losses / items.to(losses)[tasks]).sum()

    def _clip_grad_norm(self, model: Any) -> Tensor:
        self.accelerator.unscale_gradients()
        grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in grads]).norm(dim=0)
        shares = (self.args.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(shares.view(-1, *[1] * (grad.ndim - 1)).to(grad.dtype))
        return norms.norm()


class Together(Recipe):
    """The run of several experts.

    Args:
        alone: by task, the rows of its run alone, as `ResolvedRun.prepare_data` gives them.
        lora: the method of each alone.
        batch, accumulation, steps: of each alone.

    Attributes:
        config: of each LoRA alone, once the run has begun.
    """

    trainer = TogetherTrainer

    def __init__(
        self,
        alone: dict[str, tuple[RunData, RowPlan, RowPlan | None]],
        lora: ChosenMethod,
        batch: int,
        accumulation: int,
        steps: int,
    ) -> None:
        self._alone, self._lora = alone, lora
        self._length = batch, accumulation, steps
        self.config: LoraConfig | None = None
        self._starts: dict[str, tuple[Tensor, Tensor]] = {}

    def prepare(self, run: ResolvedRun, tasks: Sequence[Task], base: Base, console: Console) -> Any:
        if run.args.world_size > 1:
            raise UserError("experts are trained together by one process; train them alone under a launcher")
        self.begin_alone(base, tasks[0].name, run.config.seed)
        found = [self._alone[task.name] for task in tasks]
        parts = [data.training.parts[0] for data, _, _ in found]
        held_out = [data.validation.parts[0] for data, _, _ in found if data.validation is not None]
        names = [task.name for task in tasks]
        mixture = MixtureConfig.model_validate({})
        data = RunData(
            training=TokenRows(parts),
            validation=TokenRows(held_out) if len(held_out) == len(found) else None,
            mixture=Mixture.build(dict(zip(names, [p.lengths for p in parts], strict=True)), mixture, seed=0),
            cut={name: each.cut[name] for name, (each, _, _) in zip(names, found, strict=True)},
            dropped={name: each.dropped[name] for name, (each, _, _) in zip(names, found, strict=True)},
            held_out={name: each.held_out[name] for name, (each, _, _) in zip(names, found, strict=True)},
        )
        firsts = np.cumsum([0, *map(len, parts)])[:-1].tolist()
        plan = TogetherPlan(data.training, [(p, f) for (_, p, _), f in zip(found, firsts, strict=True)], *self._length)
        if run.args.eval_strategy == "no":
            return data, plan, None
        if data.validation is None:
            raise UserError("a task has no validation examples; set train.eval_strategy to no")
        return data, plan, validation_plan(data.validation, run.config.train["max_length"], plan.packed)

    def begin_alone(self, base: Base, name: str, seed: int) -> None:
        """Find what an expert that is trained alone begins with."""
        with adapted(base[0], self._lora, [name], seed, True) as model:
            self.config = copy.deepcopy(model.peft_config["default"])
            for path, module in model.named_modules():
                if hasattr(module, "lora_A") and "default" in module.lora_A:
                    pair = module.lora_A["default"].weight, module.lora_B["default"].weight
                    self._starts[path.removeprefix("base_model.model.")] = tuple(f.detach().clone() for f in pair)  # type: ignore[assignment]

    @torch.no_grad()
    def begin(self, model: Any) -> None:
        layers = {module.layer_name: module for module in model.modules() if isinstance(module, WeaveLinear)}
        if layers.keys() != self._starts.keys():
            odd = sorted(layers.keys() ^ self._starts.keys())[0]
            raise UserError(f"layer {odd} is adapted alone or together, not both: train these experts alone")
        for name, (down, up) in self._starts.items():
            layers[name].weave_A["default"].copy_(down.expand_as(layers[name].weave_A["default"]))
            layers[name].weave_B["default"].copy_(up.expand_as(layers[name].weave_B["default"]))
