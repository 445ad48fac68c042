"""An adapter beside a whole block: it reads what the block reads, and is added to what the block returns first.

mtLoRA's block placement (2603.01526): `mlp(x) + Δ(x)` with one adapter in place of one beside each linear layer within.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loraweave.errors import UserError
from loraweave.tuner.context import CallContext
from loraweave.tuner.layer import WeaveLinear
from loraweave.tuner.sizes import block_size, is_linear


class WeaveBlock(WeaveLinear):
    """A block and its adapters. The block's own code runs as it is, with whatever arguments it takes.

    Args:
        base_layer: any module whose first tensor in is (…, d_in) and whose first tensor out is (…, d_out), with the
            same leading sizes
        name: the block's path, for messages.
        call_context: shared by all adapted layers of the model.
        size: d_in and d_out; without, those of the block's first and last linear layer.
        routed: it may be called on some of the tokens, as experts are.

    Raises:
        UserError: neither a size nor a linear layer within.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        name: str,
        call_context: CallContext,
        size: Sequence[int] | None,
        routed: bool = False,
    ) -> None:
        super().__init__(base_layer, name, call_context, size or block_size(base_layer, name), routed)

    def __getattr__(self, name: str) -> Any:
        """What a model reads of its block (`layer_idx`, `is_causal`, …) is the block's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the block's, the first tensor that it returns with the update added."""
        out = self.base_layer(*args, **kwargs)
        if self.disable_adapters:
            return out
        y = out if isinstance(out, Tensor) else out[0] if isinstance(out, (tuple, list)) and out else None
        x = next((given for given in (*args, *kwargs.values()) if isinstance(given, Tensor)), None)
        if x is None or not isinstance(y, Tensor):
            got = type(out).__name__ if x is not None else "no tensor"
            raise UserError(
                f"block {self.layer_name}: its first argument and its first result must be tensors, got {got}"
            )
        if x.shape != (*y.shape[:-1], self.in_features) or y.shape[-1] != self.out_features:
            raise UserError(
                f"block {self.layer_name} maps {tuple(x.shape)} to {tuple(y.shape)}, its adapter {self.in_features} to "
                f"{self.out_features} numbers per token: set block_size=[d_in, d_out], or adapt its linear layers"
            )
        y = self._with_updates(x, y, x.shape, in_place=False) if x.numel() else self._of_no_tokens(y)
        return y if isinstance(out, Tensor) else type(out)([y, *out[1:]])

    def _linear_base(self) -> nn.Module:
        block = self.get_base_layer()
        return next((layer for layer in block.modules() if is_linear(layer)), block)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device | None, Any]:
        return super()._get_base_layer_device_and_dtype(self._linear_base())

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raise UserError: a block is no one weight."""
        self._task_to_fold(next(iter(self.knobs)))

    def _task_to_fold(self, adapter: str) -> int | None:
        raise UserError(
            f"adapter {adapter!r} is beside the whole block {self.layer_name}, which is no one weight that it could be "
            "merged or folded into; serve it as it is, or train it on linear layers"
        )
