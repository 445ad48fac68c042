"""The one adapted layer: any linear layer, with any combination of knobs. The way of T tokens through it (a: 1 or N):

    x (T, d_in) ───────────┐
      │                    │ one product: the rows of A, router and A₀ stacked, dropout D where the method has it on x
      │ frozen             ├───────────────────────────┬───────────────────────────┐
      │                    ▼                           ▼                           ▼
      │              A D(x) (T, a, r)          router x (T, G·N)             A₀ x (T, r)
      │                    │ Λ_t (r, r)                │ softmax over the heads    │
      │                    │ masks (N, T, r)           │ or the task's row (K, N)  │
      │                    ├── mix in rank space ◄── g (T, N)                      │
      │                    ▼                                                       │
      │              mixed (T, M), M = N·r, or r where the heads are one           │
      │                    ├───────────────────────────────────────────────────────┘
      ▼                    │ one product: up (M + r, d_out), the B_h times their channel gates (N, d_out), and −B̄₀
    W x (T, d_out) ── + s ·┘ ──► y (T, d_out), into W x's own memory where nobody else sees it

With `gate: own` a token meets the A and B of its own task's head alone (`lowrank.by_head`).
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loraweave import lowrank
from loraweave.adapters.tensors import FROZEN, MASK, PARAMETERS, TRAINED, first_values, rank_and_alpha, scaling_of
from loraweave.config import WeaveConfig
from loraweave.errors import UserError
from loraweave.lowrank import by_head, dropping
from loraweave.lowrank.formula import Formula, formula_of
from loraweave.lowrank.gates import Pick
from loraweave.tuner.context import CallContext
from loraweave.tuner.merging import mergeable_weight, merged_weight, quantization_of
from loraweave.tuner.parameters import AdapterTensors, Knobs
from loraweave.tuner.parts import Part, by_part, check_all_there
from loraweave.tuner.products import add_up, read
from loraweave.tuner.sizes import check_room, linear_size
from loraweave.tuner.task_ids import checked_ids, per_token

REFERENCE = os.environ.get("LORAWEAVE_REFERENCE", "0") not in ("", "0")  # the plain path, to compare with


class WeaveLinear(nn.Module, BaseTunerLayer):
    """A frozen linear layer and its adapters.

    Args:
        base_layer: nn.Linear, transformers' Conv1D, a quantised linear layer, or any module with `in_features` and
            `out_features` that maps (…, d_in) to (…, d_out).
        name: the layer's path, for messages.
        call_context: shared by all adapted layers of the model.
        size: d_in and d_out, where the layer does not say them itself.
        routed: it may be called on some of the tokens, as experts are.

    Raises:
        UserError: not a linear layer, or a rank above the layer's size.
    """

    adapter_layer_names = TRAINED
    other_param_names = (*FROZEN, "dropouts", "knobs")

    def __init__(
        self,
        base_layer: nn.Module,
        name: str,
        call_context: CallContext,
        size: Sequence[int] | None = None,
        routed: bool = False,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.layer_name = name
        self.call_context = call_context
        self.routed = routed
        self.in_features, self.out_features = size or linear_size(self.get_base_layer(), name)
        self.quantization_backend = quantization_of(self.get_base_layer())
        self.fan_in_fan_out = isinstance(self.get_base_layer(), Conv1D)
        self.knobs: dict[str, Knobs] = {}
        for parameter in PARAMETERS:
            self.add_module(parameter, AdapterTensors())
        # Never called, only asked: whoever looks for nn.Dropout, to switch it off or to change p, finds ours.
        self.dropouts = nn.ModuleDict()
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._merged_for: dict[str, tuple[Sequence[str], int]] = {}  # of those that know tasks: these, and which one
        self._unmerged_weight: Tensor | None = None

    # --- parameters -------------------------------------------------------------------------------------------------

    def update_layer(self, adapter_name: str, config: WeaveConfig, inference_mode: bool) -> None:
        """Add the parameters of `adapter_name` with their first values (`loraweave.lowrank.starts`), as `config` says;
        in `inference_mode` they are not trained. UserError: a rank or a number of groups above the layer's size."""
        r, lora_alpha = rank_and_alpha(config, self.layer_name)
        check_room(config, r, self.layer_name, self.in_features, self.out_features)
        values = first_values(config, self.layer_name, self.in_features, self.out_features)
        scaling = scaling_of(lora_alpha, r, config.use_rslora)
        self.knobs[adapter_name] = Knobs(config, r, scaling, tuple(values))
        for name, tensor in values.items():
            getattr(self, name)[adapter_name] = nn.Parameter(tensor, requires_grad=name not in FROZEN)
        self.dropouts[adapter_name] = nn.Dropout(config.lora_dropout).train(self.training)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _freeze_non_trainable_peft_weights(self, adapter_names: str | Sequence[str] | None = None) -> None:
        """PEFT calls this after it has set which adapters are trained: A stays as it is where `train_down` is off."""
        for adapter, knobs in self.knobs.items():
            if not knobs.config.train_down:
                self.weave_A[adapter].requires_grad_(False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # transformers' Mamba renames the first "embedding." of what it loads, meaning its own; take it back.
        for key in [k for k in state_dict if k.startswith(f"{prefix}weave_task_embeddings.")]:
            state_dict[key.replace("weave_task_embeddings.", "weave_task_embedding.")] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # Weights that accelerate offloads are nowhere between calls: an adapter goes to where they come for a call.
        hook = getattr(self._linear_base(), "_hf_hook", None)
        for part in getattr(hook, "hooks", [hook]):
            if device is None and getattr(part, "offload", False):
                device = part.execution_device
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)

    def _linear_base(self) -> nn.Module:
        """The frozen layer by whose weight an adapter's device and dtype go."""
        return self.get_base_layer()

    # --- forward ----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x (…, d_in) -> (…, d_out)."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            self.call_context.check_merged(self._merged_for, x.device)
            return self.base_layer(x, *args, **kwargs)
        if not x.numel():
            return self._of_no_tokens(self.base_layer(x, *args, **kwargs))
        # Base and adapter read the same two-dimensional x, so that autograd adds their gradients of it up in place.
        shape = x.shape
        in_place = x.ndim > 1 and not args and not kwargs and self._output_is_fresh()
        x = x.flatten(0, -2) if in_place else x
        y = self.base_layer(x, *args, **kwargs)
        if self.quantization_backend is not None:
            y = self.quantization_backend.maybe_clone_base_result(y)
        y = self._with_updates(x, y, shape, in_place)
        return y.view(*shape[:-1], -1) if in_place else y

    def _with_updates(self, x: Tensor, y: Tensor, shape: torch.Size, in_place: bool) -> Tensor:
        """y with every active adapter's update added.

        Args:
            x, y: (T, d_in) and (T, d_out), or (…, d_in) and (…, d_out).
            shape: (…, d_in), in which tasks are told apart.
            in_place: y, of two dimensions, may be written into.
        """
        call = self.call_context.call
        if call.parts is not None:
            x, y_rows = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
            check_all_there(len(x), call.inputs, self.layer_name, self.routed)
            parts = {adapter: part for adapter, part in call.parts.items() if adapter in self.knobs}
            return by_part(x, y_rows, parts, self._with_part, in_place).view(y.shape)
        for adapter in self.active_adapters:
            if adapter in self.knobs:
                y = self._with_update(adapter, x, y, shape, in_place)
        return y

    def _with_part(self, adapter: str, part: Part, x: Tensor, y: Tensor) -> Tensor:
        return self._with_update(adapter, x, y, x.shape, True, part)

    def _with_update(
        self, adapter: str, x: Tensor, y: Tensor, shape: torch.Size, in_place: bool, part: Part | None = None
    ) -> Tensor:
        """y with one adapter's update added; `part`: whose tokens alone these are."""
        autocast = torch.is_autocast_enabled(x.device.type)
        z = x if autocast else self._cast_input_dtype(x, self.weave_A[adapter].dtype)
        pick = self._pick(adapter, shape[:-1], part)
        if REFERENCE:
            return y + self._by_the_formula(adapter, z.view(shape), pick).view(y.shape).to(y.dtype)
        if self.knobs[adapter].config.gate == "own":
            return self._add_own(adapter, y, z, shape[:-1], pick, in_place)
        return add_up(y, *self._product(adapter, z, shape[:-1], pick), in_place)

    def _of_no_tokens(self, y: Tensor) -> Tensor:
        """The base's empty output as it is, but with a gradient of 0 for the tensors, which DDP waits for."""
        for adapter in self.active_adapters:
            for name in self.knobs[adapter].tensors if adapter in self.knobs else ():
                y = y + getattr(self, name)[adapter].sum().to(y.dtype)
        return y

    def _output_is_fresh(self) -> bool:
        """Whether nobody but this layer sees what the base returns, so that it may be written into: an nn.Linear as it
        comes, without hooks or another forward."""
        base = self.base_layer
        hooks = base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks
        return type(base) is nn.Linear and not hooks and "forward" not in base.__dict__

    def formula(self, adapter: str, without: Sequence[str] = ()) -> Formula:
        """The adapter's update in this layer as a value, of its tensors as they are.

        Args:
            adapter: its name. without: names of tensors to leave out.
        """
        knobs = self.knobs[adapter]
        tensors = {name: getattr(self, name)[adapter] for name in knobs.tensors if name not in without}
        return formula_of(knobs.config, tensors, knobs.scaling)

    def _product(self, adapter: str, x: Tensor, leading: torch.Size, pick: Pick) -> tuple[Tensor, Tensor, float, int]:
        """The adapter's update as one product: mixed (*leading, M), up (M, d_out), the scaling, and 1; or mixed
        (*leading, G, M) and G where the router weighs G groups of output channels apart.

        Args:
            x: (T, d_in) or (*leading, d_in).
            leading: (batch, tokens), as task ids need it.
            pick: each token's row of a table by task.
        """
        formula = self.formula(adapter)
        heads, gate = formula.num_heads, formula.gate
        u, logits, anchored = read(formula, x, leading, self._dropout_on_x(adapter))
        weights = None
        if logits is not None:
            weights = gate.of_tokens(logits)
        elif (table := gate.by_task(formula.B)) is not None:
            weights = pick(table)
        self._show(adapter, u, weights if weights is None or gate.groups == 1 else weights.mean(-2))
        if formula.transform is not None:
            u = lowrank.transformed(u, pick(formula.transform), formula.has_diagonal)
        masks = self._masks(adapter, u, heads, 1 / gate.share)
        if gate.groups > 1:
            u, masks = u.unsqueeze(-3), None if masks is None else masks.unsqueeze(-2)
        mixed = lowrank.mix(u, heads, weights=weights, masks=masks)
        up = lowrank.stack_up(formula.B, channel=formula.channel, merged=mixed.shape[-1] != heads * formula.rank)
        if gate.share != 1 and masks is None:
            up = up / gate.share  # not `mixed`, which may be in bfloat16: at the start the anchor must cancel the heads
        if anchored is not None and formula.anchor is not None:
            anchored = anchored.unsqueeze(-2).expand(*mixed.shape[:-1], -1) if gate.groups > 1 else anchored
            mixed, up = torch.cat([mixed, anchored], dim=-1), torch.cat([up, -formula.anchor[1].T])
        return mixed, up, formula.scaling, gate.groups

    def _add_own(self, adapter: str, y: Tensor, x: Tensor, leading: torch.Size, pick: Pick, in_place: bool) -> Tensor:
        """y with the update added where every task has a head of its own: only the heads that are there are computed.

        Args:
            y: (T, d_out) or (*leading, d_out). x: likewise, d_in.
            leading: (batch, tokens), as task ids need it.
            pick: each token's row of a table by task.
        """
        formula = self.formula(adapter, without=[MASK])  # it is for the heads that are there alone
        mask = getattr(self, MASK)[adapter] if MASK in self.knobs[adapter].tensors else None
        x = x.reshape(-1, x.shape[-1])
        rows = by_head.HeadRows(pick(torch.arange(formula.num_heads, device=x.device)).flatten(), len(x))
        drop = self._dropout_on_x(adapter)
        if len(formula.A) == 1:
            u = read(formula, x, x.shape[:-1], drop)[0].flatten(-2)
        else:
            u = by_head.down(dropping.dropout(x, drop) if drop else x, formula.A, rows)
        u = u.view(*leading, 1, -1)
        self._show(adapter, u, None)
        if formula.transform is not None:
            u = lowrank.transformed(u, pick(formula.transform), formula.has_diagonal)
        if (masks := self._masks(adapter, u, 1)) is not None:
            u = u * masks[0].unsqueeze(-2)
        u = u.view(len(x), -1)
        if torch.is_autocast_enabled(y.device.type):
            u = u.to(y.dtype)
        if u.dtype != y.dtype:
            none = u.new_zeros(len(u), self.out_features)
            update = by_head.add_up(none, u, formula.B, rows, formula.scaling, True, mask)
            return y + update.view(y.shape).to(y.dtype)
        return by_head.add_up(y.reshape(len(u), -1), u, formula.B, rows, formula.scaling, in_place, mask).view(y.shape)

    def _show(self, adapter: str, u: Tensor, weights: Tensor | None) -> None:
        if (probe := self.call_context.probe) is not None:
            B = self.formula(adapter).B if probe.overlaps else None
            probe.see(f"{self.layer_name}.{adapter}", u, weights, B)

    def _by_the_formula(self, adapter: str, x: Tensor, pick: Pick) -> Tensor:
        """The update (…, d_out), term by term: what `_product` must equal; taken with LORAWEAVE_REFERENCE=1."""
        formula, drop = self.formula(adapter), self._dropout_on_x(adapter)
        masks = self._masks(adapter, x.new_empty(*x.shape[:-1], len(formula.A), formula.rank), formula.num_heads)
        dropped = dropping.dropout(x, drop) if drop else None
        return formula.update(x, pick=pick, masks=masks, dropped=dropped)

    def _dropout(self, adapter: str) -> float:
        """The adapter's probability of dropping, now."""
        dropout = self.dropouts[adapter]
        return dropout.p if dropout.training else 0.0

    def _dropout_on_x(self, adapter: str) -> float:
        """The probability with which elements of x are dropped, now."""
        return 0.0 if self.knobs[adapter].config.head_dropout else self._dropout(adapter)

    def _masks(self, adapter: str, u: Tensor, heads: int, times: float = 1.0) -> Tensor | None:
        """Dropout masks of the heads on u (…, a, r), with a factor in them: (N, …, r), or None."""
        p = self._dropout(adapter) if self.knobs[adapter].config.head_dropout else 0.0
        if not p:
            return None
        shape = (*u.shape[:-2], heads, u.shape[-1])
        return dropping.mask(shape, p, times / (1 - p), u).movedim(-2, 0)

    def _pick(self, adapter: str, leading: torch.Size, part: Part | None = None) -> Pick:
        """Each token's row of a table by task; of the tokens of a part where one is given."""

        def pick(table: Tensor) -> Tensor:
            names = self.knobs[adapter].config.task_names or ()
            if part is not None:
                return table.index_select(0, checked_ids(part.tasks, names).to(table.device))
            ids = self.call_context.ids(names, table.device)
            return per_token(table, ids, leading, self.call_context.call.inputs, self.layer_name, self.routed)

        return pick

    # --- as a change of the weights ---------------------------------------------------------------------------------

    def lora_factors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """The plain LoRA pair (lora_A (R, d_in), lora_B (d_out, R)) with ΔW = lora_B @ lora_A, scaling included.

        A method with task ids folds for one task: the one set with `loraweave.task`.

        Args:
            adapter: its name.

        Raises:
            UserError: the update depends on x, or one task is needed and not given.
        """
        return self.formula(adapter).factors(self._task_to_fold(adapter))

    def _task_to_fold(self, adapter: str) -> int | None:
        """The id of the task to fold the adapter for, None where its method knows none."""
        config = self.knobs[adapter].config
        if config.depends_on_input:
            raise UserError(
                f"adapter {adapter!r} ({config.method}) weighs its heads by the input, so it is no fixed change of the "
                "weights and cannot be merged or folded; serve it as it is, or train mlora, multilora or mtllora"
            )
        if not config.needs_tasks:
            return None
        ids = self.call_context.ids(config.task_names or (), self.weave_A[adapter].device)
        if ids.numel() != 1:
            raise UserError(
                f"adapter {adapter!r} ({config.method}) folds for one task at a time, got {ids.numel()} tasks"
            )
        return int(ids.reshape(()))

    @torch.no_grad()
    def get_delta_weight(self, adapter: str) -> Tensor:
        """ΔW of one `adapter`, in the base weight's own layout: (d_out, d_in), or (d_in, d_out) for Conv1D."""
        lora_A, lora_B = self.lora_factors(adapter)
        change = lora_B @ lora_A
        return change.T if self.fan_in_fan_out else change

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether the adapter folds, for the task that is set if its method needs one; a warning says why not."""
        if adapter_name in self.knobs:
            try:
                self._task_to_fold(adapter_name)
            except UserError as reason:
                warnings.warn(str(reason), stacklevel=2)
                return False
        return True

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add ΔW to the base weight. The old weight is kept, so that `unmerge` gives its very bits back.

        Raises:
            UserError: the update depends on x; no task given; a quantised base; with `safe_merge`, the merged weight is
                not finite. The layer is then as it was.
        """
        adapters = [adapter for adapter in check_adapters_to_merge(self, adapter_names) if adapter in self.knobs]
        if not adapters:
            return
        base = self.get_base_layer()
        weight = mergeable_weight(base, self.layer_name)
        changes = {adapter: self.get_delta_weight(adapter) for adapter in adapters}
        merged = merged_weight(weight, changes, self.layer_name if safe_merge else None)
        if self._unmerged_weight is None:
            self.__dict__["_unmerged_weight"] = weight  # kept, but not as a parameter of this layer
        base.weight = merged  # a new parameter and not new data: tied embeddings go on with the old one
        self.merged_adapters.extend(adapters)
        for adapter in adapters:
            if (task := self._task_to_fold(adapter)) is not None:
                self._merged_for[adapter] = self.knobs[adapter].config.task_names or (), task

    def unmerge(self) -> None:
        """Put the base weight back as it was before the first merge."""
        if self._unmerged_weight is None:
            return
        base, old = self.get_base_layer(), self._unmerged_weight
        old.data = old.data.to(base.weight.device, base.weight.dtype)  # the model may have been moved or cast since
        base.weight = old
        self._unmerged_weight = None
        self.merged_adapters.clear()
        self._merged_for.clear()
