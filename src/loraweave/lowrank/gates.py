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
        router: (G·N, d_in), whose product with x gives each token's logits over heads, for each of `groups` groups of
            output channels (HydraLoRA's code; R-LoRA; mtLoRA, 2603.01526); None without a router.
        groups: G.
        reads_rank: the router is (G·N, a·r) and reads A x in x's place (HydraLoRA's text; CoMoL, 2603.00573).
        task_logits: (K, N), each task's logits over heads: w_t / τ (MTL-LoRA, eq. 5) or G e_t (MoE-LoRA); None where
            tasks do not weigh them.
        own: head h is task h's, and speaks for it alone.
        top_k: only so many heads with the highest logits speak (SMoRA, 2501.15103; MoLA, 2402.08562); None for all.
    """

    share: int = 1
    router: Tensor | None = None
    groups: int = 1
    reads_rank: bool = False
    task_logits: Tensor | None = None
    own: bool = False
    top_k: int | None = None

    def by_task(self, B: Tensor) -> Tensor | None:
        """The weights of the heads on each task, (K, N); None where tasks do not weigh them.

        Args:
            B: (N, d_out, r), for the number of heads and their dtype.
        """
        if self.own:
            return torch.eye(len(B), dtype=B.dtype, device=B.device)
        return None if self.task_logits is None else softmax_over_heads(self.task_logits, self.top_k)

    def of_tokens(self, logits: Tensor) -> Tensor:
        """The weights of the heads on each token: (…, N), or (…, G, N) where there are several groups.

        Args:
            logits: (…, G·N), the router's product.
        """
        if self.groups > 1:
            logits = logits.unflatten(-1, (self.groups, -1))
        return softmax_over_heads(logits, self.top_k)


def softmax_over_heads(logits: Tensor, top_k: int | None = None) -> Tensor:
    """Weights that sum to 1, (…, N) as the logits; at least float32 inside.

    Args:
        logits: (…, N), whose dtype the weights have too.
        top_k: only the highest so many take part, the others weigh 0. Of equal ones the choice is torch's.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    if top_k is None or top_k >= logits.shape[-1]:
        return torch.softmax(logits, dim=-1, dtype=wide).to(logits.dtype)
    best, places = logits.topk(top_k, dim=-1, sorted=False)
    weights = torch.softmax(best, dim=-1, dtype=wide).to(logits.dtype)
    return torch.zeros_like(logits).scatter(-1, places, weights)


def picked(table: Tensor, pick: Pick | None) -> Tensor:
    """Every token's row of a table by task, as `pick` gives them.

    Args:
        table: (K, …).
        pick: from the table to (…, …), a row for each token.

    Raises:
        ValueError: `pick` is None: nobody says which task each token has.
    """
    if pick is None:
        raise ValueError("the update depends on the task, and nobody says which each token has")
    return pick(table)
