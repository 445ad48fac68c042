"""An adapter's update as a plain LoRA: two factors per layer, scaling folded in, one rank for all layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peft import LoraConfig, TaskType
from torch import Tensor

from loraweave.adapters.file import AdapterFile
from loraweave.lowrank.factors import energy, padded, truncate

PREFIX = "base_model.model."
"""What stands before a layer's path in the names of an adapter's tensors."""
HeadWeights = Mapping[str, Tensor]
"""By layer, fixed weights of the heads in a router's place: (N,), or (G, N) for each group of output channels."""


@dataclass(frozen=True)
class PlainLora:
    """A plain LoRA of scaling 1.

    Attributes:
        pairs: by layer, lora_A (rank, d_in) and lora_B (d_out, rank) in float64.
        rank: of every pair, with zeros where a layer needs less.
        native: the rank that it has without any truncation.
        kept: the share of the update's squared Frobenius norm that is left, over all layers; 1 where nothing was cut.
    """

    pairs: dict[str, tuple[Tensor, Tensor]]
    rank: int
    native: int
    kept: float = 1.0

    def tensors(self) -> dict[str, Tensor]:
        """As PEFT saves them, in float32."""
        return {
            f"{PREFIX}{layer}.{name}.weight": factor.float()
            for layer, pair in self.pairs.items()
            for name, factor in zip(("lora_A", "lora_B"), pair, strict=True)
        }

    def config(
        self,
        target_modules: Sequence[str],
        base: str | None,
        task_type: TaskType | str | None,
        revision: str | None = None,
    ) -> LoraConfig:
        """PEFT's configuration: one rank and an alpha equal to it, no patterns; `base`: the base's name, and its
        `revision` on the hub."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.rank,
            target_modules=[*target_modules],
            task_type=task_type,
            base_model_name_or_path=base,
            revision=revision,
            inference_mode=True,
        )

    @property
    def is_cut(self) -> bool:
        """Whether a part of the update is missing."""
        return self.kept < 1.0


def plain_lora(
    adapter: AdapterFile, task: int | None, head_weights: HeadWeights | None = None, max_rank: int | None = None
) -> PlainLora:
    """The plain LoRA of an adapter.

    Args:
        adapter: whose linear layers are meant; what else it holds is not looked at.
        task: the number of the task, for an adapter that tells tasks apart.
        head_weights: to take the router's place, for layers that have one.
        max_rank: of the result: in each layer the nearest in the Frobenius norm.

    Raises:
        ValueError: heads are weighed by the input and no weights are given; or by the task and none is given.
    """
    pairs, whole, left, native = {}, 0.0, 0.0, 0
    for layer in adapter.sizes:
        formula = adapter.formula(layer)
        if formula.depends_on_input and head_weights is not None:
            formula = formula.weighed(head_weights[layer])
        pair = formula.factors(task if formula.num_tasks else None)
        native = max(native, len(pair[0]))
        if max_rank is not None and len(pair[0]) > max_rank:
            before = energy(*pair)
            pair = truncate(*pair, max_rank)
            whole, left = whole + before, left + min(energy(*pair), before)
        else:
            own = energy(*pair)
            whole, left = whole + own, left + own
        pairs[layer] = pair
    rank = max(len(down) for down, _ in pairs.values())
    kept = 1.0 if rank >= native or whole == 0 else left / whole
    return PlainLora({layer: padded(*pair, rank) for layer, pair in pairs.items()}, rank, native, kept)
