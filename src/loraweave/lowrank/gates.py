"""Who speaks: the weight of each head, for each token or each task.

Every gate is a softmax over heads and returns (…, N). The softmax runs in float32 or better, whatever the inputs.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear


def softmax_over_heads(logits: Tensor) -> Tensor:
    """(…, N) -> (…, N), sums to 1; at least float32 inside, the dtype of `logits` outside."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return torch.softmax(logits, dim=-1, dtype=wide).to(logits.dtype)


def token_weights(x: Tensor, router: Tensor) -> Tensor:
    """Per token, from the layer's input (HydraLoRA's code; R-LoRA). x (…, d_in), router (N, d_in) -> (…, N)."""
    return softmax_over_heads(linear(x, router))


def task_weights(logits: Tensor, temperature: float) -> Tensor:
    """Per task (MTL-LoRA, eq. 5: softmax(w_t / τ)). logits (K, N) -> (K, N), one row per task."""
    return softmax_over_heads(logits / temperature)


def embedding_weights(embedding: Tensor, gate: Tensor) -> Tensor:
    """Per task, from a task embedding (MoE-LoRA: softmax(G e_t)). embedding (K, e), gate (N, e) -> (K, N)."""
    return softmax_over_heads(linear(embedding, gate))
