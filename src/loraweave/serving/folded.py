"""An adapter that is a plain LoRA for each of its tasks, served as that: its factors stand beside the base, worked out
once, so that a token costs what a LoRA's does, whatever the method."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loraweave.experts.mixed import MixedBatches
from loraweave.serving.voices import Speakers, Voice, per_token, why_alone
from loraweave.tuner import WeaveLinear

MOST = 0.5
"""Of the base's numbers: as many as the factors of all tasks may be."""


class FoldedSpeakers:
    """The base of an adapter, with the adapter's update for each task beside it; as `voices.Speakers`.

    Args:
        model: an adapter that `folds`. Its base is taken out of it, and it is of no use any more.
    """

    alone: str | None = None

    @torch.no_grad()
    def __init__(self, model: PeftModel) -> None:
        (self.adapter,) = model.active_adapters
        layers = {path.removeprefix("base_model.model."): layer for path, layer in _layers(model).items()}
        pairs = {
            _key(task): {path: layer.formula(self.adapter).factors(task) for path, layer in layers.items()}
            for task in _tasks(model)
        }
        self.base: PreTrainedModel = model.unload()  # type: ignore[operator]
        self._beside = MixedBatches(self.base)
        self._beside.put(pairs)
        self._numbers = {name: number for number, name in enumerate(self._beside.names)}

    @contextmanager
    def speaking(self, voices: Sequence[tuple[Voice, int]]) -> Iterator[None]:
        """As of `voices.Speakers`."""
        own = ((0 if v.adapter is None else self._numbers[_key(v.task)], count) for v, count in voices)
        with self._beside.call_context.use(per_token(own, self.base.device)[None]):
            yield


def speakers_of(model: PreTrainedModel | PeftModel) -> Speakers | FoldedSpeakers:
    """Whoever speaks for a model that is served, in the way that costs least."""
    return FoldedSpeakers(model) if isinstance(model, PeftModel) and folds(model) else Speakers(model)


def folds(model: PeftModel) -> bool:
    """Whether a Weave adapter's update is fixed for each task, on plain linear layers that see all tokens, in the
    precision in which the base computes; and whether there is room for the factors of every task."""
    base, layers = model.get_base_model(), _layers(model)
    if not layers or len(model.peft_config) > 1 or why_alone(model) is not None:
        return False
    (adapter,) = model.active_adapters
    uses = Counter(id(module) for _, module in base.named_modules(remove_duplicate=False))
    size = 0
    for layer in layers.values():
        plain = type(layer.base_layer) in (nn.Linear, Conv1D) and uses[id(layer)] == uses[id(layer.base_layer)] == 1
        formula = layer.formula(adapter)
        fixed = not formula.depends_on_input and formula.A.dtype == model.dtype
        if not plain or not fixed or layer is base.get_output_embeddings():
            return False
        size += sum(factor.numel() for factor in formula.factors(0 if formula.num_tasks else None))
    return size * len(_tasks(model)) <= MOST * sum(parameter.numel() for parameter in base.parameters())


def _layers(model: PeftModel) -> dict[str, WeaveLinear]:
    return {path: module for path, module in model.named_modules() if isinstance(module, WeaveLinear)}


def _tasks(model: PeftModel) -> Sequence[int | None]:
    config = model.active_peft_config
    return range(len(config.task_names or ())) if getattr(config, "needs_tasks", False) else (None,)


def _key(task: int | None) -> str:
    return "it" if task is None else str(task)
