"""Behaviours of tasks: per sequence, per token, packed rows, generation, and what is said when they are missing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from compatibility.cases import NAMES, TASKS, Case, assert_close, behaviour
from torch import Tensor, nn

import loraweave
from loraweave import UserError

GROUP = "Tasks"
GENERATION = "Generation"


def needs_none(case: Case) -> str | None:
    return None if case.needs_tasks else "the method needs no tasks"


def not_causal(case: Case) -> str | None:
    return None if case.architecture.kind == "causal" else "not a causal language model"


def cannot_generate(case: Case) -> str | None:
    return None if case.architecture.generates else "the model does not generate"


@behaviour(GROUP, pointless=needs_none)
def missing_tasks(case: Case, folder: Path) -> None:
    """A call without tasks, with an unknown one or an id out of range is one line that lists the known tasks."""
    model = case.adapted()
    for tasks, message in (((), "needs to know the task"), (["a", "c", "a"], "unknown task 'c'"), ([0, 2, 0], "id 2")):
        with pytest.raises(UserError, match=message) as error:
            case.output(model, tasks=tasks)
        assert ", ".join(NAMES) in str(error.value)
        assert "\n" not in str(error.value)


@behaviour(GROUP)
def task_per_sequence(case: Case, folder: Path) -> None:
    """A batch of several tasks equals its sequences one at a time."""
    model = case.changed()
    together = case.output(model)
    for i, name in enumerate(TASKS):
        assert_close(together[i : i + 1], case.output(model, tasks=name, rows=slice(i, i + 1)))
    if case.needs_tasks:
        assert not torch.allclose(together, case.output(model, tasks=["b", "a", "b"]))


def one_vector(case: Case) -> bool:
    """A pooler or a classifier is adapted, which gets one vector per sequence."""
    return case.needs_tasks and case.architecture.name in ("bert (sequence classes)", "vit (image classes)")


@behaviour(GROUP, refused=one_vector)
def task_per_token(case: Case, folder: Path) -> None:
    """Tasks per token equal tasks per sequence where a sequence has one, and differ where it has two."""
    model = case.changed()
    tokens = case.architecture.tokens
    ids = torch.tensor([NAMES.index(name) for name in TASKS])[:, None].expand(3, tokens)
    together = case.output(model, tasks=ids)
    assert_close(together, case.output(model))
    if case.needs_tasks:
        mixed = ids.clone()
        mixed[:, tokens // 2 :] = 1 - mixed[:, tokens // 2 :]
        split = case.output(model, tasks=mixed)
        assert not torch.allclose(split, together)
        if case.architecture.kind == "causal":  # what comes first does not see what comes after
            assert_close(split[:, : tokens // 2], together[:, : tokens // 2])


def no_packing(case: Case) -> str | None:
    if "absolute" in case.architecture.traits:
        return "positions are counted from the attention mask, not read from position_ids"
    if "stateful" in case.architecture.traits:
        return "the state runs along the row, over the border between examples"
    return None


@behaviour(GROUP, pointless=not_causal, impossible=no_packing)
def packed(case: Case, folder: Path) -> None:
    """Examples packed into one row (position_ids restart, tasks per token) equal the examples alone."""
    model = case.changed()
    ids = case.architecture.inputs()["input_ids"]
    alone = [case.output(model, tasks=TASKS[i], rows=slice(i, i + 1))[0] for i in range(3)]
    positions = torch.arange(ids.shape[1]).repeat(3)[None]
    tasks = torch.tensor([NAMES.index(name) for name in TASKS]).repeat_interleave(ids.shape[1])[None]
    given = {"input_ids": ids.reshape(1, -1), "labels": ids.reshape(1, -1), "position_ids": positions}
    row = case.output(model, tasks=tasks, use_cache=False, **given)
    assert_close(row[0], torch.cat(alone))


@behaviour(GROUP)
def task_block(case: Case, folder: Path) -> None:
    """`with loraweave.task(…)` equals the argument, and leaves nothing behind."""
    model = case.changed()
    expected = case.output(model)
    with loraweave.task(model, TASKS):
        assert torch.equal(case.output(model, tasks=()), expected)
    if case.needs_tasks:
        with pytest.raises(UserError):
            case.output(model, tasks=())


def _generate(case: Case, model: nn.Module, tasks: Any, rows: slice = slice(None), **options: Any) -> Tensor:
    ids = case.architecture.inputs()["input_ids"][rows]
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0, **options}
    return model.generate(input_ids=ids, tasks=tasks, **options)


def _batch_equals_one_at_a_time(case: Case, **options: Any) -> None:
    model = case.changed()
    both = _generate(case, model, TASKS, **options)
    each = [_generate(case, model, name, slice(i, i + 1), **options) for i, name in enumerate(TASKS)]
    assert torch.equal(both, torch.cat(each))
    # The test would see tasks that are not read; but mamba's one adapted layer moves its logits too little for a token.
    if case.needs_tasks and not options and case.architecture.name != "mamba":
        assert not torch.equal(both, _generate(case, model, ["b", "a", "b"]))


@behaviour(GENERATION, pointless=cannot_generate)
def greedy(case: Case, folder: Path) -> None:
    """Greedy generation of a batch of several tasks equals one sequence at a time."""
    _batch_equals_one_at_a_time(case)


@behaviour(GENERATION, pointless=cannot_generate)
def sampling(case: Case, folder: Path) -> None:
    """Sampling, two sequences returned for each prompt (of the likeliest token alone, so that it can be compared)."""
    _batch_equals_one_at_a_time(case, do_sample=True, top_k=1, num_return_sequences=2)


@behaviour(GENERATION, pointless=cannot_generate)
def beams(case: Case, folder: Path) -> None:
    """Beam search."""
    _batch_equals_one_at_a_time(case, num_beams=2)


@behaviour(GENERATION, pointless=cannot_generate)
def static_cache(case: Case, folder: Path) -> None:
    """A static cache gives the sequences of a growing one."""
    model = case.changed()
    assert torch.equal(_generate(case, model, TASKS), _generate(case, model, TASKS, cache_implementation="static"))


def no_assistant(case: Case) -> str | None:
    stateful = "stateful" in case.architecture.traits
    return "transformers: assisted generation is not supported with stateful models" if stateful else None


@behaviour(GENERATION, pointless=not_causal, impossible=no_assistant)
def assisted(case: Case, folder: Path) -> None:
    """Assisted generation, the base drafting, equals greedy generation."""
    model = case.changed()
    alone = _generate(case, model, "b", slice(0, 1))
    drafted = _generate(case, model, "b", slice(0, 1), assistant_model=case.architecture.build())
    assert torch.equal(alone, drafted)


@behaviour(GENERATION, pointless=not_causal)
def in_a_pipeline(case: Case, folder: Path) -> None:
    """`pipeline("text-generation")` inside `loraweave.task`."""
    from tiny_project import byte_tokenizer
    from transformers import pipeline

    model = case.changed()
    tokenizer = byte_tokenizer()
    tokenizer.pad_token_id = 0
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
    settings = {"max_new_tokens": 3, "do_sample": False, "return_tensors": True}
    prompt = tokenizer.decode([5, 6, 7])
    with loraweave.task(model, "b"):
        said = generator(prompt, **settings)[0]["generated_token_ids"]
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    assert (
        said == model.generate(input_ids=ids, tasks="b", max_new_tokens=3, do_sample=False, pad_token_id=0)[0].tolist()
    )
