"""Exact switching: one expert at a time merged into the base, which comes back bit for bit (CORAL, 2603.09298).

The base's own weights are never written to. A merged weight is another tensor that takes its place in the layer; to
restore the base is to put its own tensors back. So no rounding adds up over switches, and where a merge is cut off the
base is what the model holds. Inference runs the base's own layers, at the base's cost. The price is memory: a second
tensor for every weight that the expert changes, as with any copy of clean weights.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loraweave.errors import UserError
from loraweave.experts.fitting import Pairs, linear_layers
from loraweave.tuner.merging import mergeable_weight

_AT_ONCE = {"cpu": 2**21}
_AT_ONCE_ELSEWHERE = 2**26
"""Bytes of a weight, in float32, that are added to at once: on a CPU what its cache still has when the sum is made."""


@dataclass
class _Layer:
    """A layer of the base that some expert changes, and its own weight."""

    module: Any
    own: nn.Parameter


@dataclass(frozen=True)
class _Merged:
    """The weights of an expert merged into the base, by layer, and what the base's own were then."""

    weights: dict[str, nn.Parameter]
    own: Mapping[str, tuple[int, torch.dtype, torch.device]]

    @property
    def bytes(self) -> int:
        return sum(weight.nbytes for weight in self.weights.values())


class _Whole:
    """Whether a model's weights are all of one expert, or all the base's; asked before every call of the model."""

    def __init__(self) -> None:
        self.torn = False

    def __call__(self, *_: Any) -> None:
        if self.torn:
            raise UserError(
                "a switch was cut off while weights were put in place, so the model holds a part of an expert: call "
                "switch again, which restores the base first"
            )


class Switcher:
    """Merges one expert at a time into a base; switching to another one, or to none, restores the base first.

    Whoever calls the model while another thread may switch does so in `using`, and nothing else is merged before such a
    block has ended, by its own thread neither. CUDA graphs keep the weights' addresses:
    capture them after a switch, for each expert.

    Args:
        model: a base as it was loaded, without adapters.
        read: the update of an expert by its name, as `Fitting.pairs` gives it.
        memory: bytes for merged weights that are kept beside those in use, so that the way back to an expert costs
            nothing; those that were used longest ago go first.

    Attributes:
        model: as given.
        active: the expert that is merged; None for the base.

    Raises:
        UserError: the model has adapters, or another switcher that has not been closed.
    """

    def __init__(self, model: PreTrainedModel, read: Callable[[str], Pairs], memory: int = 0) -> None:
        if hasattr(model, "peft_config"):
            raise UserError("the model has adapters already; experts are merged into a base without any")
        if any(isinstance(hook, _Whole) for hook in model._forward_pre_hooks.values()):
            raise UserError(
                "experts are merged into this model by another switcher, or manager, which takes its weights for its "
                "own: close that one first, or load the base once more"
            )
        self.model = model
        self.memory = memory
        self.active: str | None = None
        self._read = read
        self._layers: dict[str, _Layer] = {}
        self._merged: _Merged | None = None
        self._kept: OrderedDict[str, _Merged] = OrderedDict()
        self._whole = _Whole()
        self._lock = RLock()
        self._blocks = 0
        self._hook = model.register_forward_pre_hook(self._whole)

    @property
    def kept(self) -> list[str]:
        """The experts whose merged weights are kept beside those in use, the one that would go first in front."""
        return list(self._kept)

    @property
    def bytes(self) -> int:
        """What all merged weights take, in bytes, those in use included."""
        return sum(merged.bytes for merged in [*self._kept.values(), *([self._merged] if self._merged else [])])

    def switch(self, name: str | None) -> None:
        """Restore the base and, unless `name` is None, merge the expert of that name into it.

        Raises:
            UserError: the expert cannot be read, or a layer of it cannot be merged: it is quantised, offloaded, used
                under several paths, or not there; named. Or a block of `using` in this thread has another one. The
                model is the base then, or the expert it was.
        """
        with self._lock:
            if name == self.active and not self._whole.torn:
                return
            self._check_no_block()
            pairs = None if name is None or name in self._kept else self._read(name)
            if pairs is not None:
                self._prepare(str(name), pairs)
            merged = None if name is None else self._kept.pop(name, None)
            spare = self._restore()
            if name is None:
                return
            if merged is None or self._is_stale(merged):
                if pairs is None:  # kept, and stale: its files may be others by now
                    pairs = self._read(name)
                    self._prepare(name, pairs)
                merged = self._merge(pairs, spare)
            self._put(merged.weights)
            self.active, self._merged = name, merged

    @contextmanager
    def using(self, name: str | None) -> Iterator[PreTrainedModel]:
        """The model with an expert merged, or None of them, which no other thread changes while the block runs.

        Args:
            name: of the expert. The model stays as it is afterwards, for the next call of the same.

        Raises:
            UserError: as `switch`.
        """
        with self._lock:
            self.switch(name)
            self._blocks += 1
            try:
                yield self.model
            finally:
                self._blocks -= 1

    def forget(self, names: Collection[str]) -> None:
        """Let go of the merged weights of experts whose files have changed, or are gone. `names`: which.

        Raises:
            UserError: a block of `using` in this thread has one of them. Nothing has changed then.
        """
        with self._lock:
            if self.active in names:
                self._check_no_block()
                self._restore()
            for name in names:
                self._kept.pop(name, None)

    def close(self) -> None:
        """Restore the base for good and let go of everything else."""
        with self._lock:
            self._restore()
            self._kept.clear()
            self._layers.clear()
            self._hook.remove()

    def _check_no_block(self) -> None:
        if self._blocks:
            who = "the base" if self.active is None else f"expert {self.active!r}"
            raise UserError(
                f"{who} is in use: this thread is in a block of `using` that has not ended, and its model would be "
                "another one from here on; end the block first"
            )

    def _prepare(self, name: str, pairs: Pairs) -> None:
        """Find the expert's layers, before anything is changed."""
        new = [path for path in pairs if path not in self._layers]
        for path, module in linear_layers(self.model, new, f"expert {name!r}").items():
            try:
                own = mergeable_weight(module, path)
            except UserError as error:
                raise UserError(f"expert {name!r}: {error}; in mixed batches it answers without being merged") from None
            if own.is_meta or type(own.data) is not Tensor:
                raise UserError(
                    f"expert {name!r}: the weight of layer {path} is not here (offloaded, or divided among devices), "
                    "so nothing can be merged into it"
                )
            self._layers[path] = _Layer(module, own)

    def _restore(self) -> dict[str, nn.Parameter]:
        """Put the base's own weights back; returns the weights that nobody needs any more, to be written over."""
        merged, name = self._merged, self.active
        self._own_follow_the_model()
        other = self._layers if self._whole.torn else merged.weights if merged is not None else {}
        self._put({path: self._layers[path].own for path in other})
        self.active = self._merged = None
        spare: dict[str, nn.Parameter] = {}
        if merged is not None and name is not None:
            self._kept[name] = merged
        while self._kept and sum(each.bytes for each in self._kept.values()) > self.memory:
            spare |= self._kept.popitem(last=False)[1].weights
        return spare

    def _own_follow_the_model(self) -> None:
        """The model may have been moved or cast while it held others in their place."""
        for path in self._merged.weights if self._merged is not None else ():
            layer = self._layers[path]
            now = layer.module.weight
            layer.own.data = layer.own.data.to(now.device, now.dtype)

    def _put(self, weights: Mapping[str, nn.Parameter]) -> None:
        self._whole.torn = True
        for path, weight in weights.items():
            self._layers[path].module.weight = weight  # a parameter and not its data: what is tied to it stays
        self._whole.torn = False

    def _merge(self, pairs: Pairs, spare: dict[str, nn.Parameter]) -> _Merged:
        weights, states = {}, {}
        for path, (down, up) in pairs.items():
            layer = self._layers[path]
            own, buffer = layer.own, spare.pop(path, None)
            if buffer is None or (buffer.dtype, buffer.device) != (own.dtype, own.device):
                buffer = nn.Parameter(torch.empty_like(own), requires_grad=False)
            left, right = (down.T, up.T) if isinstance(layer.module, Conv1D) else (up, down)
            add_product(buffer.data, own.detach(), left.to(own.device), right.to(own.device))
            weights[path], states[path] = buffer, _state(own)
        return _Merged(weights, states)

    def _is_stale(self, merged: _Merged) -> bool:
        """Whether the base's own weights have been trained, moved or cast since an expert was merged into them."""
        return any(_state(self._layers[path].own) != before for path, before in merged.own.items())


def _state(own: nn.Parameter) -> tuple[int, torch.dtype, torch.device]:
    return own._version, own.dtype, own.device


@torch.no_grad()
def add_product(out: Tensor, weight: Tensor, left: Tensor, right: Tensor) -> None:
    """weight + left @ right, the sum in float32 or better and rounded once, written into `out`.

    Args:
        out, weight: (d, e) in one dtype; two tensors.
        left: (d, r) in float32. right: (r, e), likewise.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    left, right = left.to(wide), right.to(wide)
    at_once = _AT_ONCE.get(weight.device.type, _AT_ONCE_ELSEWHERE)
    rows = max(1, at_once // (weight.shape[1] * wide.itemsize))
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        if wide == weight.dtype:
            torch.addmm(weight[part], left[part], right, out=out[part])
        else:
            out[part] = weight[part].to(wide).addmm_(left[part], right)
