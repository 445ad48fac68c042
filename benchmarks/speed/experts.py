"""Experts: a switch against a plain copy of the weights it touches, and a batch of several experts in one pass against
PEFT's `adapter_names` and against merging each in turn."""

import copy
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from loraweave.experts.fitting import Pairs
from loraweave.experts.mixed import MixedBatches
from loraweave.experts.switching import Switcher

from .models import half_billion_shaped
from .timing import in_turn, ratios

RANK = 16  # the paper's
BATCH, TOKENS, NEW = 32, 32, 8
EXPERTS = (2, 8, 32, 64)
PLENTY = 2**40


def with_experts(base: PreTrainedModel, count: int, rank: int = RANK) -> tuple[PeftModel, dict[str, Pairs]]:
    """PEFT's model with so many random LoRAs on all linear layers of a base, and the same as pairs of factors."""
    config = LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(1)
    model = get_peft_model(base, config, "e0")
    for number in range(1, count):
        model.add_adapter(f"e{number}", config)
    pairs: dict[str, dict[str, tuple[Tensor, Tensor]]] = {f"e{number}": {} for number in range(count)}
    with torch.no_grad():
        for path, module in model.named_modules():
            for name in getattr(module, "lora_A", {}):
                A, B = module.lora_A[name].weight, module.lora_B[name].weight.mul_(0.05)
                layer = path.removeprefix("base_model.model.")
                pairs[name][layer] = A.detach().clone(), B.detach() * module.scaling[name]
    return model.eval(), pairs


def switching(
    device: str = "cpu", rounds: int = 9, build: Callable[[], PreTrainedModel] = half_billion_shaped
) -> list[dict[str, Any]]:
    """A switch between two experts, merged anew or kept, over a plain copy of all weights that they change."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        base = build().to(device, dtype).eval()
        _, pairs = with_experts(copy.deepcopy(base), 2)
        pairs = {name: {k: (a.to(device), b.to(device)) for k, (a, b) in of.items()} for name, of in pairs.items()}
        weights = [base.get_submodule(path).weight.detach() for path in pairs["e0"]]
        buffers = [torch.empty_like(weight) for weight in weights]

        def copied(weights: Sequence[Tensor] = weights, buffers: Sequence[Tensor] = buffers) -> None:
            for buffer, weight in zip(buffers, weights, strict=True):
                buffer.copy_(weight)

        subjects: dict[str, Callable[[], Any]] = {"copy": copied}
        for name, memory in (("merged anew", 0), ("kept", PLENTY)):
            switcher = Switcher(copy.deepcopy(base), pairs.__getitem__, memory)
            names = cycle(pairs)
            subjects[name] = lambda switcher=switcher, names=names: switcher.switch(next(names))
        touched = sum(weight.nbytes for weight in weights)
        found = ratios(in_turn(subjects, rounds), "copy")
        rows.append({"dtype": str(dtype).removeprefix("torch."), "rank": RANK, "bytes": touched, **found})
    return rows


def mixed_batches(
    device: str = "cpu",
    rounds: int = 5,
    experts: Sequence[int] = EXPERTS,
    build: Callable[[], PreTrainedModel] = half_billion_shaped,
) -> list[dict[str, Any]]:
    """Generating 8 tokens for a batch of 32 prompts of 32 tokens, whose experts change from row to row, over PEFT's
    `adapter_names`; and the base alone."""
    rows = []
    for count in experts:
        subjects, asked = mixed_subjects(build().to(device).eval(), count, device)
        found = ratios(in_turn(subjects, rounds, warmup=1), "peft")
        rows.append({"experts": count, "in the batch": len(set(asked)), "rank": RANK, **found})
    return rows


def mixed_subjects(base: PreTrainedModel, count: int, device: str) -> tuple[dict[str, Callable[[], Any]], list[str]]:
    """The four ways to answer a batch, each giving the tokens; and who is asked, row by row."""
    peft, pairs = with_experts(copy.deepcopy(base), count)
    together = copy.deepcopy(base)
    MixedBatches(together).put(pairs)
    switcher = Switcher(copy.deepcopy(base), pairs.__getitem__)
    torch.manual_seed(2)
    ids = torch.randint(10, base.config.vocab_size, (BATCH, TOKENS), device=device)
    asked = [f"e{row % count}" for row in range(BATCH)]
    how = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}

    def generated(model: Any, rows: Tensor, **more: Any) -> Tensor:
        with torch.no_grad():
            return model.generate(input_ids=rows, attention_mask=torch.ones_like(rows), **how, **more)

    def merged_in_turn() -> Tensor:
        out = ids.new_empty(BATCH, TOKENS + NEW)
        for name in dict.fromkeys(asked):
            rows = [row for row, each in enumerate(asked) if each == name]
            with switcher.using(name) as model:
                out[rows] = generated(model, ids[rows])
        return out

    subjects = {
        "peft": lambda: generated(peft, ids, adapter_names=asked),
        "mixed": lambda: generated(together, ids, tasks=asked),
        "in turn": merged_in_turn,
        "base": lambda: generated(base, ids),
    }
    return subjects, asked
