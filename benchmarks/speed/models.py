"""Whole models: a training step, and inference after merging, for every method against PEFT's LoRA."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from loraweave.bases import load_base
from loraweave.config import PRESETS
from loraweave.runs.methods import choose_method

from .memory import peak_bytes
from .timing import in_turn, ratios

RANK, HEADS = 32, 4
DROPOUT = {"rlora": 0.2, "mlora": 0.2}
# Methods whose total rank is not divided among four heads.
OTHERWISE: dict[str, dict[str, Any]] = {
    "mola": {"heads_by_depth": [2, 4, 4, 6]},
    "smora": {"r": 1, "num_heads": RANK, "top_k": RANK // 4},
    "comol": {"r": RANK},
}


def nano() -> PreTrainedModel:
    """The base that ships."""
    return load_base("nano", "float32")[0]


def half_billion_shaped() -> PreTrainedModel:
    """Random weights in the shapes of Qwen2.5-0.5B's layers: four of its 24, and a vocabulary of 8,192."""
    config = Qwen2Config(
        vocab_size=8192, hidden_size=896, intermediate_size=4864, num_hidden_layers=4, num_attention_heads=14,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


MODELS: dict[str, tuple[Callable[[], PreTrainedModel], int, int]] = {
    "nano, 8 × 256 tokens": (nano, 8, 256),
    "0.5B-shaped, 2 × 256 tokens": (half_billion_shaped, 2, 256),
}


def method_of(name: str) -> dict[str, Any]:
    """A method at a total rank of 32, where its preset puts it, with the dropout of the comparison."""
    dropout = DROPOUT.get(name, 0.05)
    if name in ("lora", "dora"):
        return {"name": name, "r": RANK, "lora_alpha": 2 * RANK, "lora_dropout": dropout}
    heads = {"r": RANK // HEADS, "num_heads": HEADS}
    return {"name": name, **heads, **OTHERWISE.get(name, {}), "lora_dropout": dropout}


def training_steps(base: PreTrainedModel, batch: int, tokens: int, device: str, autocast: bool) -> dict[str, Any]:
    """A step of each method on the same tokens, on copies of the base."""
    ids = torch.randint(10, base.config.vocab_size, (batch, tokens), device=device)
    tasks = torch.arange(batch, device=device) % 4
    steps = {}
    for name in ("lora", "dora", *PRESETS):
        config = choose_method(method_of(name)).peft_config(["a", "b", "c", "d"])
        model = get_peft_model(copy.deepcopy(base).to(device), config).train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
        more = {"tasks": tasks} if name in PRESETS else {}

        def step(model: Any = model, optimizer: Any = optimizer, more: Any = more) -> None:
            with torch.autocast(device, torch.bfloat16, enabled=autocast):
                loss = model(input_ids=ids, labels=ids, use_cache=False, **more).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        steps[name] = step
    return steps


def compare_models(rounds: int = 5, device: str = "cpu", autocast: bool = False) -> list[dict[str, Any]]:
    """A row per model: each method's step, and its peak memory, over LoRA's."""
    rows = []
    for label, (build, batch, tokens) in MODELS.items():
        steps = training_steps(build(), batch, tokens, device, autocast)
        row: dict[str, Any] = {"model": label, "autocast": autocast}
        row["to_lora"] = ratios(in_turn(steps, rounds, least=0.0, warmup=1), "lora")
        row["peak_bytes"] = {name: peak_bytes(step) for name, step in steps.items()}
        rows.append(row)
    return rows


@torch.no_grad()
def inference(rounds: int = 61, device: str = "cpu") -> dict[str, Any]:
    """Forward passes of nano after `merge_and_unload`, over the base's own."""
    base = nano().to(device)
    ids = torch.randint(10, base.config.vocab_size, (4, 128), device=device)
    calls: dict[str, Any] = {"base": lambda: base(input_ids=ids)}
    for name in ("mlora", "multilora"):
        adapter = get_peft_model(copy.deepcopy(base), choose_method(method_of(name)).peft_config(["a"]))
        merged = adapter.merge_and_unload().eval()
        calls[name] = lambda merged=merged: merged(input_ids=ids)
    return ratios(in_turn(calls, rounds), "base")
