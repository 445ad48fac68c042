"""Who speaks: the weight of each head, for each token or each task.

Every gate is a softmax over heads. The softmax runs in float32 or better, whatever the inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Pick = Callable[[Tensor], Tensor]
"""Takes a table with one row per task, (K, …), and gives every token its task's row, broadcasting against (…)."""


@dataclass(frozen=True)
class Gate:
    """The weights of the heads, of whichever kind.

    Attributes:
        share: every head weighs 1 / share, beside what follows: N where heads are averaged, else 1.
        router: (N, d_in), whose product with x gives each token's logits over heads (HydraLoRA's code; R-LoRA); None
            without a router.
        task_logits: (K, N), each task's logits over heads: w_t / τ (MTL-LoRA, eq. 5) or G e_t (MoE-LoRA); None where
            tasks do not weigh them.
    """

    share: int = 1
    router: Tensor | None = None
    task_logits: Tensor | None = None

    def by_task(self) -> Tensor | None:
        """(K, N): the weights of the heads on each task; None where tasks do not weigh them."""
        return None if self.task_logits is None else softmax_over_heads(self.task_logits)

    def weights(self, router_logits: Tensor | None, pick: Pick | None) -> Tensor | None:
        """(…, N): the weight of each head for each token, `share` left out; None where all weigh 1.

        Args:
            router_logits: (…, N), the product of x with the router, where there is one.
            pick: for gates by task.
        """
        if router_logits is not None:
            return softmax_over_heads(router_logits)
        table = self.by_task()
        return None if table is None else picked(table, pick)


def softmax_over_heads(logits: Tensor) -> Tensor:
    """(…, N) -> (…, N), sums to 1; at least float32 inside, the dtype of `logits` outside."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return torch.softmax(logits, dim=-1, dtype=wide).to(logits.dtype)


def picked(table: Tensor, pick: Pick | None) -> Tensor:
    """Every token's row of a table by task (K, …); ValueError where nobody says which task each token has."""
    if pick is None:
        raise ValueError("the update depends on the task, and nobody says which each token has")
    return pick(table)
