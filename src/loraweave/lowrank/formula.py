"""One layer's update as one value: it can run by the letter, fold to a plain LoRA, and weigh its heads.

    s · Σ_h  g_h ⊙ B_h · D_h(Λ A_a(h) x)  −  s · B̄₀ A₀ x

Whoever has an adapter's tensors, in a model or in a file, makes a `Formula` of them with `formula_of` and asks it; the
layer's fast path takes the same tensors out of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from loraweave.lowrank.algebra import check_shapes, delta, fold
from loraweave.lowrank.gates import Gate, Pick, picked


class Knobs(Protocol):
    """What a formula needs to know beside tensors; `loraweave.WeaveConfig` has it.

    Attributes:
        gate: its name.
        temperature: τ of a gate by task.
        top_k: how many heads speak; None for all.
        gate_groups: G, groups of output channels.
        router_input: "x" or "rank".
    """

    gate: str
    temperature: float
    top_k: int | None
    gate_groups: int
    router_input: str


@dataclass(frozen=True)
class Formula:
    """One layer's update.

    Attributes:
        A: (1 or N, r, d_in).
        B: (N, d_out, r).
        gate: who speaks.
        channel: (N, d_out) gate per output channel, or None.
        transform: (K, r, r), Λ of each task, or (K, r) where all are diagonal; or None.
        anchor: the frozen pair A₀ (r, d_in), B̄₀ (d_out, r) that is taken away, or None.
        scaling: s.

    Raises:
        ValueError: A and B do not fit each other.
    """

    A: Tensor
    B: Tensor
    gate: Gate
    channel: Tensor | None = None
    transform: Tensor | None = None
    anchor: tuple[Tensor, Tensor] | None = None
    scaling: float = 1.0

    def __post_init__(self) -> None:
        check_shapes(self.A, self.B, d_in=self.A.shape[-1])

    @property
    def num_heads(self) -> int:
        """N."""
        return self.B.shape[0]

    @property
    def rank(self) -> int:
        """r, of one head."""
        return self.B.shape[-1]

    @property
    def num_tasks(self) -> int:
        """K: for how many tasks it folds, each apart; 0 where the update is the same for all."""
        if self.gate.own:
            return self.num_heads
        table = self.transform if self.transform is not None else self.gate.task_logits
        return 0 if table is None else len(table)

    @property
    def depends_on_input(self) -> bool:
        """Whether heads are weighed by x, so that the update is no fixed change of the weights and does not fold."""
        return self.gate.router is not None and self.num_heads > 1

    @property
    def has_diagonal(self) -> bool:
        """Whether the transforms are diagonals, (K, r)."""
        return self.transform is not None and self.transform.ndim == 2

    def full_transform(self) -> Tensor:
        """(K, r, r), for a formula that has transforms."""
        assert self.transform is not None
        return torch.diag_embed(self.transform) if self.has_diagonal else self.transform

    def head_weights(self) -> Tensor:
        """(K, N) or, where tasks do not weigh the heads, (1, N): fixed scalar weights.

        Raises:
            ValueError: the weights depend on x.
        """
        if self.depends_on_input:
            raise ValueError("the heads are weighed by the input, so they have no fixed weights")
        table = self.gate.by_task(self.B)
        return self.B.new_full((1, self.num_heads), 1 / self.gate.share) if table is None else table / self.gate.share

    def factors(self, task: int | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The plain LoRA pair that does the same, exactly, scaling included.

        Args:
            task: whose update, where they are told apart (`num_tasks`).
            weights: (N,) to take the place of the gate's.

        Returns:
            lora_A (R, d_in) and lora_B (d_out, R) with ΔW = lora_B @ lora_A.

        Raises:
            ValueError: the update depends on x and no weights are given, or on the task and none is given.
        """
        if task is None and self.num_tasks and (weights is None or self.transform is not None):
            raise ValueError(f"the update is another one for each of {self.num_tasks} tasks: name one")
        A, B = self.A, self.B
        if weights is None and self.gate.own:  # the others weigh nothing, so the rank is one head's
            A, B = A if len(A) == 1 else A[task, None], B[task, None]
        elif weights is None:
            table = self.head_weights()
            weights = table[0 if task is None or len(table) == 1 else task]
        return fold(
            A,
            B,
            weights=weights,
            channel=self.channel,
            transform=None if self.transform is None else self.full_transform()[task],
            scaling=self.scaling,
            anchor=self.anchor,
        )

    def mean_factors(self, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `factors`, of the mean over tasks where they are told apart; of no more rank than one task's update.

        Args:
            weights: (N,) to take the place of the gate's.

        Σ_t g_th B_h Λ_t A / K = B_h (Σ_t g_th Λ_t / K) A.
        """
        if self.num_tasks == 0:
            return self.factors(weights=weights)
        table = self.head_weights() if weights is None else weights.unsqueeze(0)
        if self.transform is None:
            return self.factors(weights=table.mean(0))
        mixed = torch.einsum("tn,trs->nrs", table.expand(self.num_tasks, -1), self.full_transform()) / self.num_tasks
        plain = Formula(self.A, self.B @ mixed, Gate(), self.channel, None, self.anchor, self.scaling)
        return plain.factors()

    def weighed(self, weights: Tensor) -> "Formula":
        """The formula with fixed weights of the heads in the gate's place.

        Args:
            weights: (N,), or (G, N) for each group of output channels.
        """
        table = weights.view(-1, self.num_heads)
        rows = zip(channel_groups(self.B, len(table)), table, strict=True)
        by_channel = torch.cat([row.unsqueeze(-1).expand(-1, len(channels)) for channels, row in rows], dim=1)
        return replace(self, B=self.B * by_channel.unsqueeze(-1).to(self.B), gate=Gate())

    def token_weights(self, x: Tensor, read: Tensor | None = None) -> Tensor:
        """The heads' weights on each token, of a formula with a router.

        Args:
            x: (…, d_in). read: (…, d_in), what A reads, where that is x after dropout.

        Returns:
            (…, N), or (…, G, N) where groups of output channels are weighed apart.
        """
        gate = self.gate
        assert gate.router is not None
        source = linear(x if read is None else read, self.A.flatten(0, 1)) if gate.reads_rank else x
        return gate.of_tokens(linear(source, gate.router))

    def task_core(self, tasks: int) -> tuple[Tensor, Tensor, Tensor]:
        """All heads stacked into one pair with a small matrix per task between them: B C_t A is task t's update.

        Args:
            tasks: K; where the update is the same for all tasks, that many copies.

        Returns:
            A (R, d_in), B (d_out, R), scaling included, and C (K, R, R).

        Raises:
            ValueError: the update depends on x.
        """
        if self.num_tasks == 0:
            down, up = self.factors()
            return down, up, torch.eye(len(down), dtype=down.dtype, device=down.device).repeat(tasks, 1, 1)
        heads, r = self.num_heads, self.rank
        eye = torch.eye(heads, dtype=self.A.dtype, device=self.A.device)
        within = torch.eye(r).to(self.A).expand(tasks, -1, -1) if self.transform is None else self.full_transform()
        weights = self.head_weights().expand(tasks, -1)
        core = torch.einsum("kn,nm,kij->knimj", weights, eye, within).flatten(3, 4).flatten(1, 2)
        B = self.B if self.channel is None else self.B * self.channel.unsqueeze(-1)
        down = self.A.expand(heads, -1, -1).flatten(0, 1)
        up = B.transpose(0, 1).flatten(1, 2) * self.scaling
        if self.anchor is not None:
            anchor_A, anchor_B = self.anchor
            down, up = torch.cat([down, anchor_A]), torch.cat([up, -self.scaling * anchor_B], dim=1)
            ones = torch.eye(len(anchor_A), dtype=core.dtype, device=core.device)
            core = torch.stack([torch.block_diag(each, ones) for each in core])
        return down, up, core

    def update(
        self, x: Tensor, *, pick: Pick | None = None, masks: Tensor | None = None, dropped: Tensor | None = None
    ) -> Tensor:
        """The update of the layer's output, by the letter: the reference of every faster way.

        Args:
            x: (…, d_in).
            pick: for gates and transforms by task.
            masks: (N, …, r) dropout masks on A x, scaled by 1 / (1 - p).
            dropped: (…, d_in), x after dropout, which A reads in its place; router and anchor read x as it is.

        Returns:
            (…, d_out).
        """
        read = x if dropped is None else dropped
        y = torch.cat(
            [
                delta(
                    read,
                    self.A,
                    self.B[:, channels],
                    weights=weights,
                    channel=None if self.channel is None else self.channel[:, channels],
                    transform=None if self.transform is None else picked(self.full_transform(), pick),
                    masks=masks,
                    scaling=self.scaling,
                )
                for channels, weights in self._groups(x, read, pick)
            ],
            dim=-1,
        )
        if self.anchor is not None:
            anchor_A, anchor_B = self.anchor
            y = y - self.scaling * linear(linear(x, anchor_A), anchor_B)
        return y

    def _groups(self, x: Tensor, read: Tensor, pick: Pick | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The output channels that share their weights, and the weights (…, N); None where all weigh 1."""
        gate, weights = self.gate, None
        if gate.router is not None:
            weights = self.token_weights(x, read)
        elif (table := gate.by_task(self.B)) is not None:
            weights = picked(table, pick)
        elif gate.share != 1:
            weights = x.new_full((self.num_heads,), 1 / gate.share)
        for number, channels in enumerate(channel_groups(self.B, gate.groups)):
            yield channels, weights if weights is None or gate.groups == 1 else weights[..., number, :]


def channel_groups(B: Tensor, groups: int) -> tuple[Tensor, ...]:
    """The output channels of B (N, d_out, r) in so many groups of neighbours, sizes differing by one at most."""
    return torch.arange(B.shape[1], device=B.device).tensor_split(groups)


def formula_of(knobs: Knobs, tensors: Mapping[str, Tensor], scaling: float) -> Formula:
    """The formula of one layer's tensors.

    Args:
        knobs: the adapter's configuration.
        tensors: by their names in an adapter file, with or without `weave_` before them: A (1 or N, r, d_in),
            B (N, d_out, r) and what the method has beside them.
        scaling: s of this layer.
    """
    t = {name.removeprefix("weave_"): tensor for name, tensor in tensors.items()}
    B = t["B"]
    if "B_mask" in t:  # LoRI (2504.07448): B_t ⊙ M_t
        B = B * t["B_mask"]
    if "core" in t:  # CoMoL (2603.00573): B_h = B M_h
        B = (B[0] @ t["core"].transpose(0, 1).flatten(1)).unflatten(1, (-1, B.shape[2])).transpose(0, 1)
    task_logits = None
    if knobs.gate == "task":
        task_logits = t["task_logits"] / knobs.temperature
    elif knobs.gate == "task_embedding":
        task_logits = linear(t["task_embedding"], t["task_gate"])
    gate = Gate(
        share=len(B) if knobs.gate == "uniform" else 1,
        router=t.get("router"),
        groups=knobs.gate_groups,
        reads_rank=knobs.router_input == "rank",
        task_logits=task_logits,
        own=knobs.gate == "own",
        top_k=knobs.top_k,
    )
    return Formula(
        A=t["A"],
        B=B,
        gate=gate,
        channel=t.get("channel"),
        transform=t.get("task_transform"),
        anchor=(t["anchor_A"], t["anchor_B"]) if "anchor_A" in t else None,
        scaling=scaling,
    )
