"""Checkpointing that the library does not control: a second run sees the tasks of the first, or says that it cannot."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from tiny_adapters import NEED_TASKS, preset
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    CheckpointWrapper,
    checkpoint_wrapper,
)
from torch.utils.checkpoint import checkpoint

import loraweave
from loraweave import UserError
from loraweave.config import PRESETS

NAMES = ["a", "b", "c"]
X = torch.randn(3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ONE, OTHER = ["a", "c", "b"], torch.tensor([[0, 1, 2, 1, 0], [2, 2, 2, 1, 1], [1, 0, 0, 0, 2]])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return torch.tanh(self.linear(x))


class Foreign(nn.Module):
    """Somebody's model that runs its blocks through `run`, by default as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.run: Callable[..., Any] = lambda block, x: block(x)

    def forward(self, x):
        for block in self.blocks:
            x = self.run(block, x)
        return x


def adapted(name: str) -> nn.Module:
    torch.manual_seed(0)
    config = preset(name, r=2, task_names=NAMES, target_modules=["linear"], init_weights=False, lora_dropout=0.0)
    return get_peft_model(Foreign(), config).double().train()


def gradients(model: nn.Module, by_context: bool = False) -> list[torch.Tensor]:
    """Of two forward passes with different tasks before one backward pass, which runs while other tasks are set."""

    def forward(tasks):
        if not by_context:
            return model(X.clone().requires_grad_(), tasks=tasks)
        with loraweave.task(model, tasks):
            return model(X.clone().requires_grad_())

    model.zero_grad()
    loss = forward(ONE).square().sum() + 3 * forward(OTHER).square().sum()
    with loraweave.task(model, "b"):
        loss.backward(retain_graph=True)
        loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.requires_grad]


def with_context(model: nn.Module) -> None:
    context_fn = loraweave.checkpoint_context(model)
    model.base_model.model.run = lambda block, x: checkpoint(block, x, use_reentrant=False, context_fn=context_fn)


def wrapped(implementation: CheckpointImpl) -> Callable[[nn.Module], None]:
    def wrap(model: nn.Module) -> None:
        blocks = model.base_model.model.blocks
        for i, block in enumerate(blocks):
            blocks[i] = checkpoint_wrapper(block, implementation)

    return wrap


def nested(model: nn.Module) -> None:
    """All blocks together are run again, and each of them again inside that."""
    wrapped(CheckpointImpl.NO_REENTRANT)(model)
    with_context(model)


CARRY = {
    "context_fn": with_context,
    "wrapper": wrapped(CheckpointImpl.NO_REENTRANT),
    "reentrant wrapper": wrapped(CheckpointImpl.REENTRANT),
    "nested": nested,
}


@pytest.mark.parametrize("by_context", [False, True], ids=["argument", "with"])
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("how", CARRY)
def test_a_second_run_sees_the_tasks_of_the_first(how: str, name: str, by_context: bool):
    expected = gradients(adapted(name))
    model = adapted(name)
    CARRY[how](model)
    for grad, wanted in zip(gradients(model, by_context), expected, strict=True):
        torch.testing.assert_close(grad, wanted)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", PRESETS)
def test_a_second_run_that_is_not_told_is_an_error_or_needs_no_tasks(name: str, reentrant: bool):
    expected = gradients(adapted(name))
    model = adapted(name)
    model.base_model.model.run = lambda block, x: checkpoint(block, x, use_reentrant=reentrant)
    if name in NEED_TASKS:
        with pytest.raises(UserError, match=r"use_reentrant=False and context_fn=loraweave\.checkpoint_context"):
            gradients(model)
        model(X, tasks="a").sum()  # and nothing is left behind
        with pytest.raises(UserError, match="needs to know the task"):
            model(X)
    else:
        for grad, wanted in zip(gradients(model), expected, strict=True):
            torch.testing.assert_close(grad, wanted)


def test_a_whole_call_with_its_tasks_may_run_in_the_backward_pass():
    model = adapted("mtllora")
    expected = gradients(model)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x, tasks):
            return checkpoint(self.model, x, tasks=tasks, use_reentrant=False)

    for grad, wanted in zip(gradients(Whole()), expected, strict=True):
        torch.testing.assert_close(grad, wanted)


def test_adapters_inside_wrappers_are_saved_and_loaded(tmp_path):
    model = adapted("rlora")
    expected = get_peft_model_state_dict(model)
    wrapped(CheckpointImpl.NO_REENTRANT)(model)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    torch.testing.assert_close(saved, expected, rtol=0, atol=0)
    for tensor in expected.values():
        tensor.zero_()
    assert not set_peft_model_state_dict(model, saved).unexpected_keys
    torch.testing.assert_close(get_peft_model_state_dict(model), saved, rtol=0, atol=0)
    assert all(isinstance(block, CheckpointWrapper) for block in model.base_model.model.blocks)


def test_a_call_in_the_backward_pass_does_not_make_older_tasks_right():
    model = adapted("mtllora")
    model.base_model.model.run = lambda block, x: checkpoint(block, x, use_reentrant=False)

    def call_with_tasks(grad):
        with torch.no_grad():
            model(X, tasks="c")

    with loraweave.task(model, "a"):
        y = model(X)
        y.register_hook(call_with_tasks)
        with pytest.raises(UserError, match="checkpoint_context"):
            y.sum().backward()


def test_a_model_given_back_has_its_own_checkpoint_functions():
    model = adapted("mtllora")
    wrapped(CheckpointImpl.NO_REENTRANT)(model)
    functions = [block.checkpoint_fn for block in model.base_model.model.blocks]
    gradients(model)
    base = model.unload()
    assert [block.checkpoint_fn for block in base.blocks] == functions


def test_rows_are_not_shared_out_among_fewer_tasks_in_training():
    model = adapted("mtllora")
    x = torch.cat([X, X])  # as a preference trainer stacks chosen and rejected rows
    with pytest.raises(UserError, match=r"tasks for 3 sequences do not fit an input of \(6, 5\)"):
        model(x, tasks=ONE)
    with torch.no_grad():  # as generation expands the rows of its prompts
        torch.testing.assert_close(model(X.repeat_interleave(2, 0), tasks=ONE)[::2], model(X, tasks=ONE))


def test_copies_in_threads_are_refused():
    model = adapted("mtllora")
    copy = model.base_model.model._replicate_for_data_parallel()  # what nn.DataParallel runs on each GPU
    with pytest.raises(UserError, match="DataParallel"):
        copy(X, tasks=ONE)
    with pytest.raises(UserError, match="needs to know the task"):
        model(X)


def test_two_adapted_models_in_one_are_told_apart():
    both = nn.ModuleList([adapted("mtllora"), adapted("moelora")])
    with pytest.raises(UserError, match="2 adapted models"), loraweave.task(both, "a"):
        pass
    with loraweave.task(both[0], "a"), loraweave.task(both[1], "b"):
        assert both[0](X).isfinite().all()
        assert both[1](X).isfinite().all()
