"""Behaviours of training: where it starts, that it learns, checkpoints, precision, the Trainer."""

from pathlib import Path
from typing import Any

import torch
from compatibility.cases import NAMES, TASKS, Case, assert_close, assert_near, behaviour, layers_of
from transformers import Trainer, TrainingArguments

import loraweave
from loraweave.adapters.tensors import FROZEN

GROUP = "Training"


def no_checkpointing(case: Case) -> str | None:
    return None if case.architecture.is_transformers else "gradient checkpointing is a switch of transformers' models"


def no_trainer(case: Case) -> str | None:
    return None if case.architecture.is_transformers else "the model computes no loss of its own"


@behaviour(GROUP)
def start(case: Case, folder: Path) -> None:
    """At the start the model is the base: bit for bit, or within rounding for an anchored start."""
    base = case.architecture.build()
    expected = case.output(base, tasks=())
    found = case.output(case.adapted(base))
    if case.config().start == "random_anchored":
        assert_close(found, expected, 1e-5)
    else:
        assert torch.equal(found, expected)


@behaviour(GROUP)
def gradients(case: Case, folder: Path) -> None:
    """Every adapter tensor gets a gradient within three steps; anchors and the base stay."""
    model = case.adapted()
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    moved = case.train(model)
    assert any("weave_" in name for name in moved)
    assert not [name for name in moved if any(part in name for part in FROZEN)]
    assert not [name for name, total in moved.items() if total == 0]
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)


@behaviour(GROUP)
def learns(case: Case, folder: Path) -> None:
    """Training lowers the loss."""
    model = case.adapted(lora_dropout=0.0)
    before = float(case.loss(model).detach())
    case.train(model, steps=8)
    assert float(case.loss(model).detach()) < before - 1e-3


def _two_forwards_before_one_backward(case: Case, reentrant: bool) -> None:
    torch.manual_seed(4)
    model = case.changed(lora_dropout=0.0)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]

    def grads() -> list[torch.Tensor]:
        loss = case.loss(model, ["a", "a", "b"]) + 2 * case.loss(model, ["b", "b", "a"])
        model.zero_grad()
        loss.backward()
        return [p.grad.clone() for p in trained]

    plain = grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    for kept, expected in zip(grads(), plain, strict=True):
        assert_close(kept, expected, 1e-3)


@behaviour(GROUP, pointless=no_checkpointing)
def checkpointing(case: Case, folder: Path) -> None:
    """Gradient checkpointing, two forwards with different tasks before one backward: the same gradients."""
    _two_forwards_before_one_backward(case, reentrant=False)


@behaviour(GROUP, pointless=no_checkpointing)
def reentrant_checkpointing(case: Case, folder: Path) -> None:
    """The same with `use_reentrant=True`."""
    _two_forwards_before_one_backward(case, reentrant=True)


@behaviour(GROUP)
def autocast(case: Case, folder: Path) -> None:
    """Autocast to bfloat16: near the float32 output, gradients for every adapter tensor."""
    model = case.adapted()
    case.train(model, steps=1)
    expected = case.output(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_near(case.output(model).float(), expected, 0.1)
        assert all(total > 0 for total in case.train(model).values())


@behaviour(GROUP)
def bfloat16_base(case: Case, folder: Path) -> None:
    """A bfloat16 base keeps its dtype, the adapter trains in float32."""
    expected = case.output(case.architecture.build(), tasks=())
    model = case.adapted(case.architecture.build().bfloat16())
    inputs = {k: v.bfloat16() for k, v in case.architecture.inputs().items() if v.is_floating_point()}
    found = case.output(model, **inputs)
    assert found.dtype == torch.bfloat16 or case.architecture.name in ("mamba",)
    assert_near(found.float(), expected, 0.1)
    assert all(total > 0 for total in case.train(model).values())
    assert {p.dtype for n, p in model.named_parameters() if "weave_" in n} == {torch.float32}


def no_float64(case: Case) -> str | None:
    mixtral = case.architecture.name == "mixtral"
    return (
        "transformers' grouped product of the experts takes no float64, with or without an adapter" if mixtral else None
    )


@behaviour(GROUP, impossible=no_float64)
def float64(case: Case, folder: Path) -> None:
    """A float64 model is float64 throughout and agrees with float32."""
    model = case.changed()
    expected = case.output(model)
    inputs = {k: v.double() for k, v in case.architecture.inputs().items() if v.is_floating_point()}
    found = case.output(model.double(), **inputs)
    assert all(p.dtype == torch.float64 for layer in layers_of(model) for p in layer.parameters())
    assert_close(found.float(), expected, 1e-4)


def _train_with(trainer: type[Trainer], case: Case, folder: Path, column: str, tasks: list, **settings: Any) -> None:
    inputs = case.architecture.inputs()
    rows = [{k: v[i] for k, v in inputs.items()} | {column: tasks[i]} for i in range(3)]
    model = case.adapted()
    before = [p.clone() for p in model.parameters() if p.requires_grad]
    settings |= {"max_steps": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 3}
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    trainer(model=model, args=TrainingArguments(str(folder), **settings, **quiet), train_dataset=rows).train()
    after = [p for p in model.parameters() if p.requires_grad]
    assert sum(not torch.equal(a, b) for a, b in zip(after, before, strict=True)) > len(before) // 3


@behaviour(GROUP, pointless=no_trainer)
def trainer(case: Case, folder: Path) -> None:
    """`loraweave.with_tasks(Trainer)` on rows with a `task` column."""
    _train_with(loraweave.with_tasks(Trainer), case, folder, "task", TASKS)


@behaviour(GROUP, pointless=no_trainer, everywhere=False)
def plain_trainer(case: Case, folder: Path) -> None:
    """transformers' own Trainer with `remove_unused_columns=False` on rows with a `tasks` column of ids."""
    ids = [NAMES.index(name) for name in TASKS]
    _train_with(Trainer, case, folder, "tasks", ids, remove_unused_columns=False)


@behaviour(GROUP, everywhere=False)
def compiles(case: Case, folder: Path) -> None:
    """torch.compile takes an adapted layer whole (no graph break), in training and evaluation."""
    model = case.changed(lora_dropout=0.0)
    layer, call = case.first_call(model)
    tasks = torch.tensor([0, 1, 0])
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    with layer.call_context.use(tasks):
        assert_close(call(compiled), call(layer))
        layer.train()
        assert_close(call(compiled), call(layer))
