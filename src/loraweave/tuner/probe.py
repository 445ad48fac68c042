"""What auxiliary losses and router health read: sums, per layer and task, of A x and of the heads' weights.

Sums over tokens and not the tokens themselves, so that nothing grows with the batch, that micro-batches and processes
add up, and that padding is left out by not counting it.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from loraweave.errors import UserError
from loraweave.lowrank.divergences import spectral_overlap


@dataclass
class LayerSums:
    """Of one layer in one forward pass; K tasks, D = numbers in A x, N heads.

    Attributes:
        sums, squares: (K, D) of A x and of its square.
        samples: (K, S, D), A x of some tokens of each task.
        weights: (K, N) of the heads' weights.
        entropy: (K,) of the weights' entropy in nats, without gradient.
        overlap: () of the heads' directions, `divergences.spectral_overlap`.
    """

    sums: Tensor | None = None
    squares: Tensor | None = None
    samples: Tensor | None = None
    weights: Tensor | None = None
    entropy: Tensor | None = None
    overlap: Tensor | None = None


@dataclass
class Probe:
    """Watches one forward pass. Layers that do not see every token of the batch are left out.

    Args:
        tasks: (batch, tokens) task ids, −1 for padding.
        num_tasks: K.
        moments: add up A x and its square.
        samples: S, keep A x of so many tokens of each task, spread evenly over those that it has.
        heads: add up the heads' weights and their entropy.
        overlaps: measure how much the directions of the heads' B overlap.
        with_gradient: a loss will be made of what is seen.
    """

    tasks: Tensor
    num_tasks: int
    moments: bool = False
    samples: int = 0
    heads: bool = False
    overlaps: bool = False
    with_gradient: bool = False
    layers: dict[str, LayerSums] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = self.tasks.flatten()
        self.rows = torch.where(self.tasks < 0, self.num_tasks, self.tasks)  # padding adds to one row more
        self.counts = torch.bincount(self.rows, minlength=self.num_tasks + 1)[: self.num_tasks]
        if self.samples:
            by_task = self.rows.argsort(stable=True)
            first = self.counts.cumsum(0) - self.counts
            steps = (torch.arange(self.samples, device=first.device) + 0.5) / self.samples
            places = first[:, None] + (steps * self.counts[:, None]).long()
            self.chosen = by_task[places.clamp(max=len(by_task) - 1)]  # (K, S); any token for a task that has none

    def silent(self) -> "Probe":
        """A probe that does the same and keeps it to itself, for a checkpointed block's second run."""
        return replace(self, layers={})

    def see(self, layer: str, u: Tensor, weights: Tensor | None = None, B: Tensor | None = None) -> None:
        """Called by each adapted layer.

        Args:
            layer: its path.
            u: (…, a, r), A x.
            weights: (…, N) of the heads, their mean where groups of output channels are weighed apart; or None where
                they are not weighed.
            B: (N, d_out, r), where `overlaps` is asked for.

        Raises:
            UserError: gradients are wanted of a block that is run without them.
        """
        if u.shape[:-2].numel() != len(self.rows):
            return
        if self.with_gradient and not torch.is_grad_enabled():
            raise UserError(
                "a loss on A x or on the router cannot see inside blocks checkpointed with use_reentrant=True; "
                "set gradient_checkpointing_kwargs to {use_reentrant: false}"
            )
        seen = self.layers[layer] = LayerSums()
        if self.overlaps and B is not None and len(B) > 1:
            seen.overlap = spectral_overlap(B.float())
        if self.moments or self.samples:
            flat = u.reshape(len(self.rows), -1).float()
            if self.moments:
                seen.sums, seen.squares = self._by_task(flat), self._by_task(flat.square())
            if self.samples:
                seen.samples = flat[self.chosen]
        if self.heads and weights is not None:
            flat = weights.expand(*u.shape[:-2], weights.shape[-1]).reshape(len(self.rows), -1).float()
            seen.weights = self._by_task(flat)
            with torch.no_grad():
                seen.entropy = self._by_task(torch.special.entr(flat).sum(-1, keepdim=True)).squeeze(-1)

    def _by_task(self, values: Tensor) -> Tensor:
        """(tokens, D) -> (K, D), added up."""
        total = values.new_zeros(self.num_tasks + 1, values.shape[-1]).index_add(0, self.rows, values)
        return total[: self.num_tasks]
