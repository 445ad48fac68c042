"""Mixed batches: sequences of several experts in one forward pass of the base, none of them merged.

A hook on every layer that some expert changes adds, to each token's output, the update of the token's own expert. The
base's modules and weights stay what they are, so that its layers may be quantised. Experts may have different ranks and
layers; what a batch costs beside the base follows the experts that are in it.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loraweave.errors import UserError
from loraweave.experts.fitting import Pairs, linear_layers
from loraweave.experts.manifest import BASE
from loraweave.lowrank.by_head import HeadRows
from loraweave.lowrank.ragged import Pair, Stack, add_each, add_stacked, stacked
from loraweave.tuner.context import CallContext, attach, detach
from loraweave.tuner.generation import unwrap_generate, wrap_generate
from loraweave.tuner.model import check_is_called, may_be_routed
from loraweave.tuner.task_ids import per_token

_WORTH = {"cpu": 2**20}
_WORTH_ELSEWHERE = 2**28
"""By device, how many multiplications more in one product a product of its own is worth: that is what it costs to begin
one. Measured on two cores of a CPU; elsewhere an estimate."""


@dataclass(frozen=True)
class _Speakers:
    """Who speaks in a call: for each of T tokens the number of its expert, and the tokens of each that is there."""

    ids: Tensor
    count: int
    numbers: Tensor
    rows: dict[int, Tensor]


@dataclass
class _Place:
    """One layer of the base with what stands beside it.

    Attributes:
        pairs: of the experts that change it, by name, each with a number that no other pair has.
        stack: those that spoke last, side by side.
    """

    module: nn.Module
    routed: bool
    handle: RemovableHandle | None = None
    pairs: dict[str, tuple[int, Pair]] = field(default_factory=dict)
    stack: tuple[tuple[tuple[int, int], ...], Stack] | None = None


class MixedBatches:
    """Experts beside a base, called with `tasks`: for each sequence, or each token, an expert's name or "base".

        beside = MixedBatches(model)
        beside.put({"boolq": fitting.pairs(library.load("boolq"))})
        model.generate(**batch, tasks=["boolq", "base"])

    Args:
        model: a base as it was loaded, without adapters, quantised or not, on the device where it is used.

    Attributes:
        model: as given.

    Raises:
        UserError: the model has adapters.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if hasattr(model, "peft_config"):
            raise UserError("the model has adapters already; experts stand beside a base without any")
        self.model = model
        self.call_context: CallContext = attach(model)
        model.__dict__["call_context"] = self.call_context  # where `loraweave.task` looks
        wrap_generate(model)
        self._names: tuple[str, ...] = (BASE,)
        self._places: dict[str, _Place] = {}
        self._serial = count()
        self._speakers: _Speakers | None = None

    @property
    def names(self) -> list[str]:
        """Whom `tasks` may name: "base", and the experts."""
        return list(self._names)

    def put(self, experts: Mapping[str, Pairs]) -> None:
        """Let experts speak; one that is there already is replaced. The calls that are under way end before that.

        Args:
            experts: by name and layer, A (r, d_in) and B (d_out, r), as `Fitting.pairs` gives them.

        Raises:
            UserError: the base has no such layer, uses it under several paths, or reads its weight without calling it.
                Nothing has changed then.
        """
        for name, pairs in experts.items():
            new = [path for path in pairs if path not in self._places]
            for path, module in linear_layers(self.model, new, f"expert {name!r}").items():
                parent, _, child = path.rpartition(".")
                check_is_called(self.model.get_submodule(parent), child, path)
                self._places[path] = _Place(module, may_be_routed(self.model, path))
        ready = {  # all of them before the first one stands there: the memory may not be enough
            name: {path: self._at(self._places[path].module, pair) for path, pair in pairs.items()}
            for name, pairs in experts.items()
        }
        for name, pairs in ready.items():
            self._take_out(name)
            for path, pair in pairs.items():
                place = self._places[path]
                place.pairs[name] = next(self._serial), pair
                if place.handle is None:
                    place.handle = place.module.register_forward_hook(self._hook(path, place))
        self._names = (BASE, *dict.fromkeys([*self._names[1:], *experts]))

    def remove(self, names: Iterable[str]) -> None:
        """Let experts speak no more. `names`: which; those that are not there are passed over."""
        gone = set(names)
        for name in gone:
            self._take_out(name)
        self._names = tuple(name for name in self._names if name == BASE or name not in gone)
        for place in self._places.values():
            if not place.pairs and place.handle is not None:
                place.handle.remove()
                place.handle = None

    def close(self) -> None:
        """Leave the base as it was."""
        self.remove(self._names)
        self.model.__dict__.pop("call_context", None)
        unwrap_generate(self.model)
        detach(self.model)

    def _take_out(self, name: str) -> None:
        for place in self._places.values():
            if place.pairs.pop(name, None) is not None:
                place.stack = None

    def _at(self, module: nn.Module, pair: Pair) -> Pair:
        """A pair where the layer computes, in the precision in which the model does."""
        device = next((parameter.device for parameter in module.parameters()), self.model.device)
        A, B = (factor.to(device, self.model.dtype) for factor in pair)
        return A, B

    def _hook(self, path: str, place: _Place) -> Callable[..., Tensor | None]:
        def add(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            x = args[0]
            if not x.numel():
                return None
            speakers = self._who_speaks(x, path, place.routed)
            names = self._names
            there = {n: place.pairs[names[n]] for n in speakers.rows if names[n] in place.pairs}
            return self._added(place, there, speakers, x, output) if there else None

        return add

    def _who_speaks(self, x: Tensor, path: str, routed: bool) -> _Speakers:
        """Worked out once for all layers of a call, and for all steps of a generation."""
        leading, last = x.shape[:-1], self._speakers
        ids = self.call_context.ids(self._names, x.device)
        if last is not None and last.ids is ids and last.count == leading.numel() and not routed:
            return last
        table = torch.arange(len(self._names), device=x.device)
        numbers = per_token(table, ids, leading, self.call_context.call.inputs, path, routed).flatten()
        numbers = numbers.repeat_interleave(leading.numel() // len(numbers))
        order, present = HeadRows(numbers, len(numbers)).segments
        parts = order.split([rows for _, rows in present])
        found = {number: rows for (number, _), rows in zip(present, parts, strict=True)}
        speakers = self._speakers = _Speakers(ids, len(numbers), numbers, found)
        return speakers  # and not what another thread may have put there by now

    def _added(
        self, place: _Place, there: Mapping[int, tuple[int, Pair]], speakers: _Speakers, x: Tensor, y: Tensor
    ) -> Tensor:
        """The layer's output with the updates of those who are there, by their numbers, added."""
        A, B = next(iter(there.values()))[1]
        x, rows, shape = x.reshape(-1, A.shape[1]), y.reshape(-1, B.shape[0]), y.shape
        # To enter and leave autocast costs as much as a product of few rows.
        autocast = torch.is_autocast_enabled(x.device.type)
        with torch.autocast(x.device.type, enabled=False) if autocast else nullcontext():
            fits = y.dtype == A.dtype
            into, in_place = (
                (rows, self._may_write(place.module)) if fits else (torch.zeros_like(rows, dtype=A.dtype), True)
            )
            x = x.to(A.dtype)
            ranks = sum(len(pair[0]) for _, pair in there.values())
            extra = len(x) * ranks * (A.shape[1] + B.shape[0])
            alone = len(there) == 1 and len(speakers.rows) == 1
            if alone or extra > len(there) * _WORTH.get(x.device.type, _WORTH_ELSEWHERE):
                each = [(pair, speakers.rows[number]) for number, (_, pair) in there.items()]
                added = add_each(into, x, each, in_place)
            else:
                added = add_stacked(into, x, speakers.numbers, self._stack(place, there), in_place)
            return (added if fits else rows + added.to(y.dtype)).view(shape)

    def _stack(self, place: _Place, there: Mapping[int, tuple[int, Pair]]) -> Stack:
        key = tuple((number, serial) for number, (serial, _) in there.items())
        kept = place.stack
        if kept is None or kept[0] != key:
            kept = place.stack = key, stacked({number: pair for number, (_, pair) in there.items()})
        return kept[1]

    @staticmethod
    def _may_write(module: Any) -> bool:
        """Whether nobody else sees what the layer returns."""
        plain = type(module) in (nn.Linear, Conv1D) and "forward" not in module.__dict__
        return plain and len(module._forward_hooks) == 1 and not torch.is_grad_enabled()
