"""The estimate against numbers that others measured on a GPU: PEFT's own comparison of methods, on one NVIDIA L40S.

Read from `method_comparison/MetaMathQA/results` of huggingface/peft: Llama-3.2-3B in bfloat16, four rows to a step, at
most 768 tokens each, AdamW, no autocast, logits for every token. What is compared is the most that CUDA's allocator had
reserved (`accelerator_memory_max`). Not known: how full the fullest batch was. Rows of like length go together, so it
is taken as full.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig

from loraweave.estimate.fake_step import Batch, FakeModel

LLAMA_3B = LlamaConfig(
    vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
    num_key_value_heads=8, head_dim=128, max_position_embeddings=131072, tie_word_embeddings=True,
)  # fmt: skip

_ATTENTION, _MLP = ["q_proj", "v_proj"], ["gate_proj", "up_proj", "down_proj"]
RECORDED: list[tuple[str, dict[str, Any], int]] = [
    ("lora--llama-3.2-3B-rank32", {"name": "lora", "r": 32, "target_modules": _ATTENTION}, 22_273_851_392),
    ("lora--llama-3.2-3B-rank32-dora", {"name": "dora", "r": 32, "target_modules": _ATTENTION}, 24_540_872_704),
    ("lora--llama-3.2-3B-rank10-target-mlp", {"name": "lora", "r": 10, "target_modules": _MLP}, 24_712_839_168),
]


class WithAllLogits(FakeModel):
    """A step as PEFT's script takes it: the model's own loss, its outputs (logits, keys, values) held on to."""

    def _loss(self, batch: Batch, autocast: torch.dtype | None) -> Tensor:
        ids = torch.zeros(batch.rows, batch.tokens, dtype=torch.long)
        self.outputs = self.model(input_ids=ids, labels=ids)
        return self.outputs.loss


def compare() -> list[dict[str, Any]]:
    """A row for each recorded run: bytes recorded and estimated, and their ratio."""
    rows = []
    for name, method, recorded in RECORDED:
        model = WithAllLogits(LLAMA_3B, {**method, "lora_dropout": 0.0}, ["metamath"], torch.bfloat16)
        batch = Batch(rows=4, tokens=768, packed=False)
        step = model.train(batch, autocast=None, checkpointing=False, accumulate=False, on_gpu=True)
        states = 8 * sum(p.numel() for p in model.trained)
        estimated = model.base_bytes + model.adapter_bytes + states + step.most
        rows.append({"run": name, "recorded": recorded, "estimated": estimated, "ratio": estimated / recorded})
    return rows
