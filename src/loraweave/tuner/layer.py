"""The one adapted layer: any linear layer, with any combination of knobs.

`WeaveLinear.forward` is the algebra of `loraweave.lowrank` around the frozen layer: everything that reads x is stacked
into one product, everything that writes y into another, which is added into the base's output.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn
from torch.nn.functional import dropout, linear
from transformers.pytorch_utils import Conv1D

from .. import gates, lowrank, starts
from ..config import WeaveConfig
from ..errors import UserError
from .context import TaskContext, per_token

PARAMETERS = (
    "weave_A",
    "weave_B",
    "weave_channel",
    "weave_router",
    "weave_task_logits",
    "weave_task_embedding",
    "weave_task_gate",
    "weave_task_transform",
    "weave_anchor_A",
    "weave_anchor_B",
)
FROZEN = ("weave_anchor_A", "weave_anchor_B")


@dataclass(frozen=True)
class Knobs:
    """What a layer needs to know of its adapter's configuration."""

    config: WeaveConfig
    r: int
    scaling: float


class WeaveLinear(nn.Module, BaseTunerLayer):
    """A frozen linear layer and its adapters.

    Args:
        base_layer: nn.Linear, transformers' Conv1D, a quantised linear layer, or any module with `in_features` and
            `out_features` that maps (…, d_in) to (…, d_out).
        name: the layer's path, for messages.
        task_context: shared by all adapted layers of the model.

    Raises:
        UserError: not a linear layer, or a rank above the layer's size.
    """

    adapter_layer_names = PARAMETERS
    other_param_names = ("knobs",)

    def __init__(self, base_layer: nn.Module, name: str, task_context: TaskContext) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.layer_name = name
        self.task_context = task_context
        self.in_features, self.out_features = linear_size(self.get_base_layer(), name)
        self.quantization_backend = resolve_quantization_backend(self.get_base_layer())
        self.fan_in_fan_out = isinstance(self.get_base_layer(), Conv1D)
        self.knobs: dict[str, Knobs] = {}
        for parameter in PARAMETERS:
            self.add_module(parameter, nn.ParameterDict())
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.frozen_peft_weight_names: dict[str, tuple[str, ...]] = {}
        self._unmerged_weight: Tensor | None = None

    # --- parameters -------------------------------------------------------------------------------------------------

    def update_layer(
        self, adapter_name: str, config: WeaveConfig, r: int, lora_alpha: float, inference_mode: bool
    ) -> None:
        """Add an adapter's parameters with their first values (`loraweave.starts`)."""
        limit = max(self.in_features, self.out_features)
        if r > limit:
            raise UserError(
                f"layer {self.layer_name}: rank {r} is above its size {self.in_features} → {self.out_features}; "
                f"use r ≤ {limit}, a smaller rank_pattern entry, or exclude_modules"
            )
        scaling = lora_alpha / (r**0.5 if config.use_rslora else r)
        self.knobs[adapter_name] = Knobs(config, r, scaling)
        for name, tensor in self._first_values(config, r).items():
            getattr(self, name)[adapter_name] = nn.Parameter(tensor, requires_grad=name not in FROZEN)
        self.frozen_peft_weight_names = {**self.frozen_peft_weight_names, adapter_name: FROZEN}
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _first_values(self, config: WeaveConfig, r: int) -> dict[str, Tensor]:
        heads, tasks = config.num_heads, len(config.task_names or ())
        A = torch.empty(1 if config.down == "shared" else heads, r, self.in_features)
        B = torch.zeros(heads, self.out_features, r)
        values = {"weave_A": A, "weave_B": B}
        if config.start == "random_anchored":
            values["weave_anchor_A"], values["weave_anchor_B"] = starts.anchored(A, B)
        else:
            starts.kaiming(A)
        if config.start == "zero_gate" or not config.init_weights:
            starts.kaiming(B)
        uniform = config.start == "random_anchored"
        if config.gate == "channel":
            values["weave_channel"] = starts.channel_gate(heads, self.out_features, config.start, config.init_weights)
        elif config.gate == "token":
            values["weave_router"] = starts.logits(heads, self.in_features, zero=uniform)
        elif config.gate == "task":
            values["weave_task_logits"] = starts.logits(tasks, heads, zero=uniform)
        elif config.gate == "task_embedding":
            values["weave_task_embedding"] = torch.randn(tasks, config.task_embedding_dim)
            values["weave_task_gate"] = starts.logits(heads, config.task_embedding_dim, zero=uniform)
        if config.task_transform:
            values["weave_task_transform"] = torch.eye(r).repeat(tasks, 1, 1)
        return values

    def _get(self, name: str, adapter: str) -> Tensor | None:
        return getattr(self, name).get(adapter)

    # --- forward ----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x (…, d_in) -> (…, d_out)."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return self.base_layer(x, *args, **kwargs)
        y = self.base_layer(x, *args, **kwargs)
        if self.quantization_backend is not None:
            y = self.quantization_backend.maybe_clone_base_result(y)
        for adapter in self.active_adapters:
            if adapter in self.knobs:
                u, up = self._factors(adapter, x)
                y = _add_product(y, u, up)
        return y

    def _factors(self, adapter: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """The adapter's update as one product: u (…, R) and up (R, d_out), the scaling in u."""
        knobs = self.knobs[adapter]
        config = knobs.config
        A, B = self.weave_A[adapter], self.weave_B[adapter]
        channel, router = self._get("weave_channel", adapter), self._get("weave_router", adapter)
        anchor_A, anchor_B = self._get("weave_anchor_A", adapter), self._get("weave_anchor_B", adapter)
        heads = config.num_heads
        drop = config.lora_dropout if self.training else 0.0
        if not torch.is_autocast_enabled(x.device.type):
            x = self._cast_input_dtype(x, A.dtype)

        plain = [t for t in (router, anchor_A) if t is not None]  # what reads x without dropout
        if drop and not config.head_dropout:
            u = linear(dropout(x, drop), A.flatten(0, 1))
            rest = linear(x, torch.cat(plain)) if plain else x.new_empty(0)
        else:
            rows = A.shape[0] * A.shape[1]
            u, rest = linear(x, torch.cat([A.flatten(0, 1), *plain])).tensor_split([rows], dim=-1)
        u = u.unflatten(-1, A.shape[:2])

        weights = None
        if router is not None:
            logits, rest = rest.tensor_split([heads], dim=-1)
            weights = gates.softmax_over_heads(logits)
        elif config.gate in ("task", "task_embedding"):
            weights = self._rows_of_tasks(adapter, self._task_weights(adapter), x)
        transform = self._get("weave_task_transform", adapter)
        if transform is not None:
            transform = self._rows_of_tasks(adapter, transform, x)
        masks = None
        if drop and config.head_dropout:
            masks = dropout(u.new_ones(heads, *u.shape[:-2], knobs.r), drop)

        mixed = lowrank.mix(u, heads, weights=weights, transform=transform, masks=masks)
        up = lowrank.stack_up(B, channel=channel, merged=mixed.shape[-1] != heads * knobs.r)
        mixed = mixed * (knobs.scaling / heads if config.gate == "uniform" else knobs.scaling)
        if anchor_B is not None:
            mixed = torch.cat([mixed, (rest * knobs.scaling).to(mixed.dtype)], dim=-1)
            up = torch.cat([up, -anchor_B.T])
        return mixed, up

    def _task_weights(self, adapter: str) -> Tensor:
        """(K, N): the gates of all tasks."""
        config = self.knobs[adapter].config
        if config.gate == "task":
            return gates.task_weights(self.weave_task_logits[adapter], config.temperature)
        return gates.embedding_weights(self.weave_task_embedding[adapter], self.weave_task_gate[adapter])

    def _rows_of_tasks(self, adapter: str, table: Tensor, x: Tensor) -> Tensor:
        ids = self.task_context.ids(self.knobs[adapter].config.task_names or (), x.device)
        return per_token(table, ids, x)

    # --- folding and merging ----------------------------------------------------------------------------------------

    def lora_factors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """The plain LoRA pair (lora_A (R, d_in), lora_B (d_out, R)) with ΔW = lora_B @ lora_A, scaling included.

        A method with task ids folds for one task: the one set with `loraweave.task`.

        Raises:
            UserError: the update depends on x, or one task is needed and not given.
        """
        knobs = self.knobs[adapter]
        config = knobs.config
        if config.depends_on_input:
            raise UserError(
                f"adapter {adapter!r} ({config.method}) weighs its heads by the input, so it is no fixed change of the "
                "weights and cannot be merged or folded; serve it as it is, or train mlora, multilora or mtllora"
            )
        weights = transform = None
        if config.needs_tasks:
            ids = self.task_context.ids(config.task_names or (), self.weave_A[adapter].device)
            if ids.numel() != 1:
                raise UserError(
                    f"adapter {adapter!r} ({config.method}) folds for one task at a time, got {ids.numel()} tasks"
                )
            task = int(ids.reshape(()))
            if config.gate in ("task", "task_embedding"):
                weights = self._task_weights(adapter)[task]
            if config.task_transform:
                transform = self.weave_task_transform[adapter][task]
        if config.gate == "uniform" or (config.gate == "token" and config.num_heads == 1):
            weights = self.weave_A[adapter].new_full((config.num_heads,), 1.0 / config.num_heads)
        anchor_A, anchor_B = self._get("weave_anchor_A", adapter), self._get("weave_anchor_B", adapter)
        return lowrank.fold(
            self.weave_A[adapter],
            self.weave_B[adapter],
            weights=weights,
            channel=self._get("weave_channel", adapter),
            transform=transform,
            scaling=knobs.scaling,
            anchor=(anchor_A, anchor_B) if anchor_A is not None and anchor_B is not None else None,
        )

    @torch.no_grad()
    def get_delta_weight(self, adapter: str) -> Tensor:
        """ΔW in the base weight's own layout: (d_out, d_in), or (d_in, d_out) for Conv1D."""
        lora_A, lora_B = self.lora_factors(adapter)
        change = lora_B @ lora_A
        return change.T if self.fan_in_fan_out else change

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        config = self.knobs[adapter_name].config
        return not (config.depends_on_input or config.needs_tasks)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add ΔW to the base weight. The old weight is kept, so that `unmerge` gives its very bits back.

        Raises:
            UserError: the update depends on x; no task given; a quantised base.
            ValueError: with `safe_merge`, the merged weight is not finite.
        """
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self.knobs:
                continue
            if self.quantization_backend is not None:
                raise UserError(
                    f"layer {self.layer_name} is quantised: merging would round the update away; "
                    "merge into the unquantised base instead"
                )
            base = self.get_base_layer()
            if not isinstance(base, (nn.Linear, Conv1D)):
                raise UserError(
                    f"layer {self.layer_name} is a {type(base).__name__}: what its weight means is not known, so "
                    "nothing can be merged into it; only nn.Linear and Conv1D can"
                )
            wide = torch.promote_types(base.weight.dtype, torch.float32)
            merged = (base.weight.data.to(wide) + self.get_delta_weight(adapter).to(wide)).to(base.weight.dtype)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"NaNs detected in the merged weights. The adapter {adapter} seems to be broken")
            if self._unmerged_weight is None:
                self._unmerged_weight = base.weight.data
            base.weight.data = merged
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Put the base weight back as it was before the first merge."""
        if self._unmerged_weight is None:
            return
        weight = self.get_base_layer().weight
        weight.data = self._unmerged_weight.to(weight.device)
        self._unmerged_weight = None
        self.merged_adapters.clear()


def linear_size(layer: nn.Module, name: str) -> tuple[int, int]:
    """(d_in, d_out) of a linear layer; UserError naming the layer if it is not one."""
    if isinstance(layer, (nn.Linear, Conv1D)) or resolve_quantization_backend(layer) is not None:
        size = _get_in_out_features(layer)
    else:
        size = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    if not isinstance(size[0], int) or not isinstance(size[1], int):
        raise UserError(
            f"layer {name} is a {type(layer).__name__} and cannot be adapted; possible are nn.Linear, Conv1D and "
            "modules with in_features and out_features: change target_modules or exclude_modules"
        )
    return size


def _add_product(y: Tensor, u: Tensor, up: Tensor) -> Tensor:
    """y (…, d_out) + u (…, R) @ up (R, d_out), in y's dtype."""
    if torch.is_autocast_enabled(y.device.type) or (u.dtype == y.dtype and up.dtype == y.dtype):
        rows = y.reshape(-1, y.shape[-1])
        return torch.addmm(rows, u.reshape(-1, u.shape[-1]), up).view(y.shape).to(y.dtype)
    return y + (u @ up).to(y.dtype)
