"""The tasks of a call belong to the call: many threads and async tasks may call one model at once."""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_adapters import IDS, NAMES, adapted
from torch import nn

import loraweave
from loraweave import UserError

THREADS, CALLS = 6, 30


@pytest.fixture
def model(tiny_model: Callable[..., nn.Module]) -> nn.Module:
    return adapted(tiny_model(), "mtllora", lora_dropout=0.0)  # all threads draw from one generator


@torch.no_grad()
def answers(model: nn.Module, task: str, way: int) -> torch.Tensor:
    """The model's answer for a task, asked in one of three ways."""
    if way == 0:
        return model(input_ids=IDS, tasks=task).logits
    if way == 1:
        with loraweave.task(model, task):
            return model(input_ids=IDS).logits
    return model.generate(input_ids=IDS, tasks=task, max_new_tokens=3, do_sample=False, pad_token_id=0)


def test_six_threads_on_one_model_get_their_own_answers(model: nn.Module):
    expected = {(task, way): answers(model, task, way) for task in NAMES for way in range(3)}
    assert not torch.equal(expected[NAMES[0], 0], expected[NAMES[1], 0])

    def work(seed: int) -> int:
        rng = random.Random(seed)
        wrong = 0
        for _ in range(CALLS):
            asked = rng.choice(NAMES), rng.randrange(3)
            wrong += not torch.equal(answers(model, *asked), expected[asked])
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(work, range(THREADS))) == 0
    with pytest.raises(UserError, match="needs to know the task"):
        model(input_ids=IDS)


def test_async_tasks_keep_theirs_while_others_run(model: nn.Module):
    expected = {task: answers(model, task, 0) for task in NAMES}

    async def ask(task: str) -> bool:
        with loraweave.task(model, task):
            for _ in range(3):
                await asyncio.sleep(0)
                with torch.no_grad():
                    if not torch.equal(model(input_ids=IDS).logits, expected[task]):
                        return False
        return True

    async def everyone() -> list[bool]:
        return await asyncio.gather(*(ask(NAMES[i % 2]) for i in range(8)))

    assert all(asyncio.run(everyone()))


@pytest.mark.parametrize("reentrant", [False, True])
def test_threads_train_through_checkpoints_with_their_own_tasks(model: nn.Module, reentrant: bool):
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()

    def gradient(task: str) -> torch.Tensor:
        loss = model(input_ids=IDS, labels=IDS, tasks=task).loss
        layer = model.base_model.model.model.layers[0].mlp.up_proj
        loss.backward()
        found = layer.weave_B["default"].grad.clone()
        model.zero_grad()
        return found

    alone = {task: gradient(task) for task in NAMES}

    def lossy(task: str) -> torch.Tensor:
        loss = model(input_ids=IDS, labels=IDS, tasks=task).loss
        return torch.autograd.grad(loss, model.base_model.model.model.layers[0].mlp.up_proj.weave_B["default"])[0]

    with ThreadPoolExecutor(4) as pool:
        asked = [NAMES[i % 2] for i in range(8)]
        if reentrant:  # does not take torch.autograd.grad, and .grad is shared: forward passes beside it are enough
            list(pool.map(lambda task: answers(model.eval(), task, 0), asked))
            model.train()
            for task in NAMES:
                torch.testing.assert_close(gradient(task), alone[task])
        else:
            for task, found in zip(asked, pool.map(lossy, asked), strict=True):
                torch.testing.assert_close(found, alone[task])
