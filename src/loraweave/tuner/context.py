"""Which task each token belongs to, on its way from the caller to the adapted layers.

Linear layers get a tensor and nothing else, so the tasks of a forward pass are held in one `CallContext` that the
adapted layers of a model share. Hooks on the base model take the `tasks` argument out of every call, whoever makes it;
`task` is for code that cannot pass the argument. A checkpointed block remembers the tasks it was run with, so that its
second run, in the backward pass, sees the same ones; a second run that nobody has told them is an error.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from loraweave.errors import UserError
from loraweave.tuner.parts import Part
from loraweave.tuner.probe import Probe
from loraweave.tuner.task_ids import Tasks, checked_ids
from loraweave.tuner.wrappers import WRAPPED


@dataclass(frozen=True)
class _Call:
    """What is known of the call under way.

    Attributes:
        tasks: as the caller gave them.
        parts: by adapter, its tokens, where not every active adapter speaks for all; no part has the base's tokens.
        given_in: the backward pass in which they were given, −1 outside of one.
        probe: that watches it.
        inputs: (batch, tokens) of what the model was called with; none where a part of it was called.
        ids: what `CallContext.ids` has worked out of the tasks: the same for every layer.
    """

    tasks: Tasks | None = None
    parts: Mapping[str, Part] | None = None
    given_in: int = -1
    probe: Probe | None = None
    inputs: frozenset[tuple[int, int]] = frozenset()
    ids: dict[tuple, Tensor] = field(default_factory=dict)

    def told(self, tasks: Tasks | None) -> "_Call":
        """This call with other tasks, given now."""
        return replace(self, tasks=tasks, given_in=_backward_pass(), ids={})


_IDLE = _Call()
_CALLS: ContextVar[dict[int, _Call]] = ContextVar("loraweave_calls")
"""By the number of a `CallContext`, the call under way in this thread or async task. Never changed, always replaced."""
_NUMBERS = count()


class _Here(threading.local):
    """The call that this thread set last, for compiled code."""

    call = _IDLE


class CallContext:
    """The tasks of the call under way; one object for all adapted layers of a model.

    They belong to the call: each thread and each async task has its own, so that a model may be called from many places
    at once. A copy of a model has a context of its own.
    """

    def __init__(self) -> None:
        self._number = next(_NUMBERS)
        self._here = _Here()

    def __reduce__(self) -> tuple[type["CallContext"], tuple[()]]:
        return CallContext, ()  # copies and pickles know nothing of calls under way

    @property
    def call(self) -> _Call:
        """What is known of the call under way here."""
        if torch.compiler.is_compiling():  # torch.compile cannot read a ContextVar
            return self._here.call
        return _CALLS.get({}).get(self._number, _IDLE)

    @call.setter
    def call(self, call: _Call) -> None:
        others = {number: other for number, other in _CALLS.get({}).items() if number != self._number}
        self._here.call = call
        idle = call.tasks is None and call.parts is None and call.probe is None
        _CALLS.set(others if idle else {**others, self._number: call})

    @property
    def given(self) -> Tasks | None:
        """The tasks as the caller gave them."""
        return self.call.tasks

    @property
    def probe(self) -> Probe | None:
        """The probe that watches the call."""
        return self.call.probe

    @contextmanager
    def use(self, tasks: Tasks | None) -> Iterator[None]:
        """Set the tasks for a block of code; nested use restores the outer ones."""
        before = self.call
        self.call = before.told(tasks)
        try:
            yield
        finally:
            self.call = replace(before, probe=self.call.probe)

    @contextmanager
    def divided(self, parts: Mapping[str, Part]) -> Iterator[None]:
        """Run a block of code with each adapter speaking for its own tokens alone: for inference, where requests of
        several adapters share a batch. Tokens of no part get the base's answer."""
        before = self.call
        self.call = replace(before, parts=parts)
        try:
            yield
        finally:
            self.call = before

    @contextmanager
    def resumed(self, call: _Call, probe: Probe | None) -> Iterator[None]:
        """Go by a call of before for a block of code, which `probe` watches."""
        before = self.call
        self.call = replace(call, probe=probe, given_in=_backward_pass())
        try:
            yield
        finally:
            self.call = before

    @contextmanager
    def watched_by(self, probe: Probe | None) -> Iterator[None]:
        """Show a block of code's rank-space tensors to a probe."""
        before = self.call.probe
        self.call = replace(self.call, probe=probe)
        try:
            yield
        finally:
            self.call = replace(self.call, probe=before)

    def ids(self, task_names: Sequence[str], device: torch.device) -> Tensor:
        """The given tasks as ids into `task_names`: a LongTensor (), (batch,) or (batch, tokens).

        Raises:
            UserError: no tasks given, an unknown name or an id out of range; lists the known tasks. Or a layer is run
                again in a backward pass, and the tasks of its first run are not known.
        """
        call = self.call
        if (backward := _backward_pass()) != -1 and backward != call.given_in:
            raise UserError(
                "activation checkpointing runs an adapted layer again without the tasks of its first run: give "
                "torch.utils.checkpoint.checkpoint use_reentrant=False and "
                "context_fn=loraweave.checkpoint_context(model), or use model.gradient_checkpointing_enable()"
            )
        key = (*task_names, device)
        if key not in call.ids:
            call.ids[key] = checked_ids(call.tasks, task_names).to(device, torch.long)
        return call.ids[key]

    def check_merged(self, merged: Mapping[str, tuple[Sequence[str], int]], device: torch.device) -> None:
        """Raise UserError where the call is for another task than the one that an adapter is merged for.

        Args:
            merged: by adapter its tasks, and the id of the one that is in the weights.
            device: of the layer.
        """
        call = self.call
        for adapter, (names, task) in merged.items() if call.tasks is not None else ():
            if (adapter, task) in call.ids:  # looked at in an earlier layer
                continue
            ids = self.ids(names, device)
            if bool((ids != task).any()):
                other = names[int(ids[ids != task].flatten()[0])]
                raise UserError(
                    f"adapter {adapter!r} is merged for the task {names[task]!r}, and this call is for {other!r}: call "
                    "unmerge_adapter() first"
                )
            call.ids[adapter, task] = ids


def _backward_pass() -> int:
    """The number of the backward pass under way in this thread; −1 outside of one."""
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


_OUTER: ContextVar[tuple[_Call, ...]] = ContextVar("loraweave_outer_calls")
"""What was known before each of the calls under way, in this thread or async task, the innermost last."""


class _Hooks:
    """Take `tasks` out of the base model's keyword arguments for the time of one call."""

    def __init__(self, context: CallContext) -> None:
        self.context = context
        self.handles: list[RemovableHandle] = []

    @torch.compiler.disable  # keeps what must not be in a graph: the call under way
    def before(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        before = self.context.call
        _OUTER.set((*_OUTER.get(()), before))
        tasks = kwargs.pop("tasks", None)
        call = before if tasks is None else before.told(tasks)
        # Set although it may be as it was: in an async task, another may have called in this thread since.
        self.context.call = replace(call, inputs=_shapes(args, kwargs))
        if self.context.given is not None and getattr(module, "_is_replica", False):
            raise UserError(
                "nn.DataParallel runs copies of the model in threads, which would mix up each other's tasks: start one "
                "process per GPU (torchrun, accelerate launch), or show the process one GPU (CUDA_VISIBLE_DEVICES=0)"
            )
        if torch.is_grad_enabled() and not (self.context.given is None and self.context.probe is None):
            _carry_through_checkpoints(module, self.context)
        return args, kwargs

    @torch.compiler.disable
    def after(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        *outer, before = _OUTER.get()
        _OUTER.set(tuple(outer))
        self.context.call = before


def _shapes(args: tuple, kwargs: dict) -> frozenset[tuple[int, int]]:
    """(batch, tokens) of a call's inputs: of the arguments by place, and of those whose name says that they are one."""
    values = [*args, *(value for name, value in kwargs.items() if "input" in name)]
    return frozenset((v.shape[0], v.shape[1]) for v in values if isinstance(v, Tensor) and v.ndim >= 2)


def attach(model: nn.Module) -> CallContext:
    """The model's task context; on first use, make it and hook the model's calls. Used by the tuner at injection."""
    hooks = getattr(model, "_loraweave_hooks", None)
    if hooks is None:
        hooks = _Hooks(CallContext())
        object.__setattr__(model, "_loraweave_hooks", hooks)
        hooks.handles = [
            model.register_forward_pre_hook(hooks.before, with_kwargs=True),
            model.register_forward_hook(hooks.after, with_kwargs=True, always_call=True),
        ]
    return hooks.context


def detach(model: nn.Module) -> None:
    """Undo `attach`, when the last adapter is taken off."""
    hooks = model.__dict__.pop("_loraweave_hooks", None)
    for handle in hooks.handles if hooks else ():
        handle.remove()
    for module, name, function in _checkpoint_functions(model):
        if isinstance(function, _CheckpointWithTasks):
            setattr(module, name, function.checkpoint)


class _CheckpointWithTasks:
    """A model's checkpoint function that runs each block, first and again, with the tasks of its first run."""

    def __init__(self, checkpoint: Any, context: CallContext) -> None:
        self.checkpoint = checkpoint
        self.context = context

    def __call__(self, block: Any, *args: Any, **kwargs: Any) -> Any:
        call = self.context.call
        probe = call.probe

        def run(*block_args: Any, **block_kwargs: Any) -> Any:
            nonlocal probe
            seen_by, probe = probe, probe and probe.silent()  # the second run repeats what the probe saw in the first
            with self.context.resumed(call, seen_by):
                return block(*block_args, **block_kwargs)

        return self.checkpoint(run, *args, **kwargs)


def _checkpoint_functions(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Every module that checkpoints by a function it holds, the attribute, and the function: blocks of transformers,
    and what torch's `checkpoint_wrapper` made."""
    for module in model.modules():
        name = "checkpoint_fn" if WRAPPED in module._modules else "_gradient_checkpointing_func"
        if (function := module.__dict__.get(name)) is not None:
            yield module, name, function


def _carry_through_checkpoints(model: nn.Module, context: CallContext) -> None:
    """Wrap the checkpoint functions that a model holds, so that they carry the tasks."""
    for module, name, function in _checkpoint_functions(model):
        if not isinstance(function, _CheckpointWithTasks):
            setattr(module, name, _CheckpointWithTasks(function, context))


def _context_of(model: nn.Module, caller: str) -> CallContext:
    contexts = {id(c): c for m in model.modules() if (c := getattr(m, "call_context", None)) is not None}
    if not contexts:
        raise UserError(f"{caller}: this model has no Weave adapter, so there is no layer to tell the task")
    if len(contexts) > 1:
        raise UserError(
            f"{caller}: there are {len(contexts)} adapted models in this one, each with tasks of its own; name one"
        )
    return next(iter(contexts.values()))


@contextmanager
def task(model: nn.Module, tasks: Tasks) -> Iterator[None]:
    """Run everything inside with these tasks: `with loraweave.task(model, "boolq"): model.generate(...)`.

    Args:
        model: any module with Weave layers in it, wrapped by PEFT or not.
        tasks: a name or id for all sequences; a list of them, one per sequence; or a LongTensor (batch,) or
            (batch, tokens).

    Raises:
        UserError: the model has no Weave layers, or holds several adapted models.
    """
    context = _context_of(model, "loraweave.task")
    _carry_through_checkpoints(model, context)  # what runs inside may be a part of the model, past the hooks
    with context.use(tasks):
        yield


def checkpoint_context(model: nn.Module) -> Callable[[], tuple[AbstractContextManager, AbstractContextManager]]:
    """For a model that calls `torch.utils.checkpoint.checkpoint` itself: what to give it as `context_fn`.

        checkpoint(block, x, use_reentrant=False, context_fn=loraweave.checkpoint_context(model))

    The block then runs again, in the backward pass, with the tasks of its first run. Not needed for
    `model.gradient_checkpointing_enable()` and torch's `checkpoint_wrapper`.

    Raises:
        UserError: the model has no Weave layers, or holds several adapted models.
    """
    context = _context_of(model, "loraweave.checkpoint_context")
    return lambda: (nullcontext(), _Again(context))


class _Again:
    """The tasks of now, as a context manager for later and for as often as a block is run again."""

    def __init__(self, context: CallContext) -> None:
        self.context = context
        self.call = context.call
        self.stack = ExitStack()

    def __enter__(self) -> None:
        probe = self.call.probe
        self.stack.enter_context(self.context.resumed(self.call, probe and probe.silent()))

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)
