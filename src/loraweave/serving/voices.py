"""Who speaks for each request of a batch: an adapter, for one of its tasks where it tells them apart, or the base."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loraweave.adapters.config import changes_base
from loraweave.errors import UserError
from loraweave.foreign import private
from loraweave.tuner import WeaveLinear
from loraweave.tuner.context import attach
from loraweave.tuner.parts import Part

OF_THE_BASE = "__base__"
"""PEFT's word for rows that no adapter speaks for."""


@dataclass(frozen=True)
class Voice:
    """Who answers a request.

    Attributes:
        adapter: its name on the model; None for the base alone.
        task: the id of its task, where the adapter answers by task.
    """

    adapter: str | None = None
    task: int | None = None


BASE = Voice()


class AnySpeakers(Protocol):
    """A model that is told, call by call, who speaks for which tokens; see `Speakers`."""

    base: PreTrainedModel
    adapter: str | None
    alone: str | None

    def speaking(self, voices: Sequence[tuple[Voice, int]]) -> AbstractContextManager[None]:
        """Run the model, called in this block, with a voice for each of its sequences."""
        ...


class Speakers:
    """A model whose adapters are told, call by call, which tokens they speak for.

    Args:
        model: the base, with adapters on it or without.

    Attributes:
        base: what runs: the base, its layers with their adapters in them.
        adapter: the name of the one that is active; None where there is none.
        alone: why adapters and the base cannot share a batch, one line; None where they can.

    Raises:
        UserError: an adapter that answers by task on layers that do not see all tokens.
    """

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        self.base: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
        self.adapter = next(iter(model.active_adapters), None) if isinstance(model, PeftModel) else None
        self._context = attach(self.base) if any(isinstance(m, WeaveLinear) for m in self.base.modules()) else None
        self._names: list[str] | None = None
        self.alone = why_alone(model)
        routed = next((m.layer_name for m in self.base.modules() if isinstance(m, WeaveLinear) and m.routed), None)
        if routed is not None and getattr(model.active_peft_config, "needs_tasks", False):
            raise UserError(
                f"this adapter answers by task, and {self.alone}, so that requests of several tasks cannot share a "
                "batch: export a LoRA for each task (loraweave export --to lora) and serve those elsewhere"
            )
        if isinstance(self.base.get_output_embeddings(), BaseTunerLayer):
            private(GenerationMixin, "_supports_logits_to_keep", "serving an adapted head")
            self.base._supports_logits_to_keep = lambda: False  # an adapted head must see all tokens in their order
        for layer in self.base.modules():
            if self.alone is None and isinstance(layer, LoraLayer):
                self._tell(layer)

    @contextmanager
    def speaking(self, voices: Sequence[tuple[Voice, int]]) -> Iterator[None]:
        """Run the model, called in this block, with a voice for each of its sequences.

        Args:
            voices: of the sequences laid end to end in a call (1, tokens), each with its number of tokens.
        """
        one = all(voice.adapter == self.adapter for voice, _ in voices)
        with self._told_weave(voices, one) if self._context else self._told_peft(voices, one):
            yield

    def _told_weave(self, voices: Sequence[tuple[Voice, int]], one: bool) -> AbstractContextManager[None]:
        assert self._context is not None
        device = self.base.device
        if one:
            known = voices[0][0].task is not None
            return self._context.use(per_token(((v.task or 0, n) for v, n in voices), device)[None] if known else None)
        parts = {}
        for adapter in {voice.adapter for voice, _ in voices} - {None}:
            own = per_token(((voice.adapter == adapter, n) for voice, n in voices), device)
            tasks = [(voice.task, n) for voice, n in voices if voice.adapter == adapter]
            known = tasks[0][0] is not None
            ids = per_token(((task or 0, n) for task, n in tasks), device) if known else None
            parts[str(adapter)] = Part(own.nonzero().flatten(), ids)
        return self._context.divided(parts)

    @contextmanager
    def _told_peft(self, voices: Sequence[tuple[Voice, int]], one: bool) -> Iterator[None]:
        self._names = None if one else [v.adapter or OF_THE_BASE for v, n in voices for _ in range(n)]
        try:
            yield
        finally:
            self._names = None

    def _tell(self, layer: nn.Module) -> None:
        """Let a LoRA layer of PEFT take an adapter for every token, as it takes one for every row of a batch."""
        inner = layer.forward

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._names is None:
                return inner(x, *args, **kwargs)
            leading = x.shape[:-1] if x.is_floating_point() else x.shape
            if leading.numel() != len(self._names):
                raise UserError(f"a layer gets {leading.numel()} vectors of a call of {len(self._names)} tokens")
            flat = x.reshape(len(self._names), *x.shape[len(leading) :])
            y = inner(flat, *args, adapter_names=self._names, **kwargs)
            return y.view(*leading, -1)

        layer.forward = forward


def per_token(values: Iterable[tuple[int, int]], device: torch.device) -> Tensor:
    """A value for each token, of pairs (value, how many tokens have it)."""
    numbers, counts = zip(*values, strict=True)
    return torch.tensor(numbers).repeat_interleave(torch.tensor(counts)).to(device)


def why_alone(model: PreTrainedModel | PeftModel) -> str | None:
    """Why an adapter of this model must speak for all tokens of a call; None where it need not."""
    for path, module in model.named_modules():
        name = path.removeprefix("base_model.model.")
        if isinstance(module, AuxiliaryTrainingWrapper):
            return f"it has trained {name} as a whole"
        if isinstance(module, WeaveLinear) and module.routed:
            return f"{name} is called on tokens that a router chose"
        if isinstance(module, LoraLayer):
            if not isinstance(module.get_base_layer(), (nn.Linear, nn.Embedding, Conv1D)):
                return f"{name} is no linear layer"
            if any(module.use_dora.values()):
                return f"{name} is adapted by DoRA"
    configs: dict[str, Any] = model.peft_config if isinstance(model, PeftModel) else {}
    for config in configs.values():
        if changes_base(config):
            return "its start changed the base's own weights"
        if getattr(config, "bias", "none") != "none":
            return "it has trained biases of the base"
        if getattr(config, "target_parameters", None):
            return "it adapts parameters that are no layers"
    if getattr(model, "weights_before", None):
        return "it was saved with a vocabulary that is not the base's"
    return None
