"""How often each task is drawn, exactly.

`datasets.interleave_datasets` throws a die for every example, so an epoch only comes near the shares that were asked
for, and a subsampled task repeats some examples before it has shown others. Here every task gets a quota per epoch
that is exact (to the example, or to the token within one example), draws walk through a shuffle of the task that goes
on from epoch to epoch, and the order of each epoch is a new one. All of it follows from the seed alone, so methods
that are compared see the same data in the same order.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from zlib import crc32

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from rich.table import Table
from rich.text import Text
from typing_extensions import NotRequired, TypedDict

from loraweave.errors import UserError, nearest

SETTING_OF = {"temperature": "temperature", "cap": "capped", "weights": "weights"}
"""Which strategy each setting belongs to."""

PASSES = 64
"""Through each task, and epochs, before a long run may draw as it did in its first ones."""


LARGEST_EPOCH = 100_000_000
"""Examples: their order is worked out epoch by epoch, and held in memory."""


class MixtureConfig(BaseModel):
    """The `mixture:` of a run file; a plain string means `strategy` alone.

    Shares are in proportion to the tasks' sizes n, to n^(1/temperature), all equal, to min(n, cap), or to the weights
    given. Sizes, `cap` and `total` count examples or tokens, as `by` says.
    """

    model_config = ConfigDict(extra="forbid")

    strategy: Literal["proportional", "temperature", "equal", "capped", "weights"] = Field(
        "proportional", description="how the tasks' shares of an epoch follow from their sizes"
    )
    temperature: float | None = Field(None, gt=0, description="1 is proportional; the higher, the more equal")
    cap: int | None = Field(None, gt=0, description="a task counts as at most this large")
    weights: dict[str, float] | None = Field(None, description="a number for every task; 0 leaves a task out")
    by: Literal["examples", "tokens"] = Field("examples", description="what sizes, `cap` and `total` count")
    total: int | None = Field(
        None, gt=0, description="size of an epoch; default: all tasks drawn from, each up to `cap`"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"strategy": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _settings_fit(self) -> "MixtureConfig":
        for setting, strategy in SETTING_OF.items():
            given = getattr(self, setting) is not None
            if given and self.strategy != strategy:
                raise ValueError(f"{setting!r} goes with strategy {strategy!r}, but strategy is {self.strategy!r}")
            if not given and self.strategy == strategy:
                raise ValueError(f"strategy {strategy!r} needs {setting!r}")
        if self.weights is not None:
            bad = [task for task, weight in self.weights.items() if not (weight >= 0 and np.isfinite(weight))]
            if bad:
                raise ValueError(f"the weight of {bad[0]!r} must be 0 or more, not {self.weights[bad[0]]}")
            if not any(self.weights.values()):
                raise ValueError("all weights are 0, so there is nothing to train on")
        return self

    def check_tasks(self, names: Sequence[str]) -> None:
        """Raise a `UserError` unless `weights`, where given, names exactly these tasks."""
        if self.weights is None:
            return
        tasks = f"the tasks are {', '.join(names)}"
        for name in self.weights:
            if name not in names:
                raise UserError(f"mixture: weights names an unknown task {name!r}{nearest(name, names)}; {tasks}")
        missing = [name for name in names if name not in self.weights]
        if missing:
            raise UserError(f"mixture: weights lacks {missing[0]!r} (0 leaves a task out); {tasks}")


class Realised(TypedDict):
    """What one task got. `wanted` is the share asked for, in the mixture's own unit; `passes` is drawn / available.

    Of its examples, `available` are learned from, and `validation` and `test` are held out; `cut` lost the beginning of
    their prompt to the length limit, and `dropped` are not available, since their answer alone is too long.
    """

    task: str
    available: int
    validation: NotRequired[int]  # older runs did not write these two here
    test: NotRequired[int]
    drawn: int
    passes: float
    tokens: int
    wanted: float
    share_of_examples: float
    share_of_tokens: float
    cut: NotRequired[int]  # older runs did not write it here
    dropped: NotRequired[int]


@dataclass
class Mixture:
    """The draws of a run. Make one with `Mixture.build`.

    Attributes:
        names: The tasks, in the order of their ids.
        lengths: For each task, the tokens of each of its rows.
        shares: For each task, its share of an epoch in the unit `by`; they sum to 1.
        quotas: For each task, how much of the unit `by` an epoch holds: whole examples, or tokens.
    """

    names: list[str]
    lengths: list[np.ndarray]
    shares: np.ndarray
    quotas: np.ndarray
    by: str
    seed: int
    _ends: list[list[tuple[int, int]]] = field(default_factory=list)  # by tokens: after each epoch, draws and tokens
    _shuffles: dict[int, tuple[int, np.ndarray]] = field(default_factory=dict)  # each task's latest, and its number

    @classmethod
    def build(
        cls, lengths: Mapping[str, Sequence[int] | np.ndarray], config: MixtureConfig, seed: int = 0
    ) -> "Mixture":
        """Work out the quotas of a mixture.

        Args:
            lengths: for each task, in the order of the task ids, the number of tokens of each of its rows.
            seed: of the draws and their order.

        Raises:
            UserError: `weights` does not fit the tasks, a task has no rows, or `total` is too small for a task to
                appear.
        """
        names = list(lengths)
        config.check_tasks(names)
        rows = [np.asarray(lengths[name], dtype=np.int64) for name in names]
        for name, row in zip(names, rows, strict=True):
            if not len(row):
                raise UserError(f"mixture: the task {name!r} has no examples to train on")
        sizes = np.array([len(row) if config.by == "examples" else row.sum() for row in rows], dtype=float)
        claims = _claims(sizes, names, config)
        shares = claims / claims.sum()
        total = config.total or int(np.minimum(sizes, config.cap or np.inf)[shares > 0].sum())
        drawn: float = total
        if config.by == "tokens":
            drawn = sum(share * total * len(row) / row.sum() for share, row in zip(shares, rows, strict=True))
        if drawn > LARGEST_EPOCH:
            raise UserError(
                f"mixture: an epoch of {float(total):,.0f} {config.by} would draw {drawn:,.0f} examples, more than "
                f"{LARGEST_EPOCH:,}; lower total, and train for more epochs"
            )
        quotas = _largest_remainder(shares, total) if config.by == "examples" else shares * total
        mixture = cls(names, rows, shares, quotas, config.by, seed, [[(0, 0)] for _ in names])
        for task, name in enumerate(names):
            if shares[task] > 0 and not mixture._end(task, 0):
                raise UserError(
                    f"mixture: an epoch of {total} {config.by} leaves no example for the task {name!r}, whose share "
                    f"is {shares[task]:.2%}; raise total, or leave the task out"
                )
        return mixture

    @property
    def period(self) -> int:
        """Epochs in which every task has been gone through many times: who trains on may begin anew, with the first."""
        sizes = [len(rows) if self.by == "examples" else rows.sum() for rows in self.lengths]
        drawn = self.quotas > 0
        return math.ceil(PASSES * max(1.0, float((np.array(sizes)[drawn] / self.quotas[drawn]).max())))

    def epoch(self, number: int) -> np.ndarray:
        """(draws, 2), those of epoch `number` (from 0) in training order: task id, index of the row within the task."""
        rows = [self._drawn(task, number) for task in range(len(self.names))]
        draws = np.stack([np.repeat(np.arange(len(rows)), list(map(len, rows))), np.concatenate(rows)], axis=1)
        return draws[np.random.default_rng([self.seed, number, crc32(b"order")]).permutation(len(draws))]

    def realised(
        self, drawn: np.ndarray, tokens: np.ndarray, cut: Sequence[int], dropped: Sequence[int]
    ) -> list[Realised]:
        """What each task got, ready for JSON.

        Args:
            drawn: (K,) examples of each task, each as often as it was drawn.
            tokens: (K,) in those.
            cut, dropped: (K,) examples of each task that lost the beginning of their prompt, and that did not fit.
        """
        return [
            Realised(
                task=name,
                available=len(self.lengths[task]),
                drawn=int(drawn[task]),
                passes=float(drawn[task] / len(self.lengths[task])),
                tokens=int(tokens[task]),
                wanted=float(self.shares[task]),
                share_of_examples=float(drawn[task] / drawn.sum()),
                share_of_tokens=float(tokens[task] / tokens.sum()),
                cut=cut[task],
                dropped=dropped[task],
            )
            for task, name in enumerate(self.names)
        ]

    def _drawn(self, task: int, epoch: int) -> np.ndarray:
        """The rows of a task in one epoch: the next stretch of its endless series of shuffles."""
        start = self._end(task, epoch - 1) if epoch else 0
        return self._stretch(task, start, self._end(task, epoch))

    def _end(self, task: int, epoch: int) -> int:
        """How far into its series of shuffles the task is after an epoch."""
        if self.by == "examples":
            return int(self.quotas[task]) * (epoch + 1)
        ends = self._ends[task]
        while len(ends) < epoch + 2:
            ends.append(self._next_end(task, *ends[-1], self.quotas[task] * len(ends)))
        return ends[epoch + 1][0]

    def _next_end(self, task: int, end: int, used: int, wanted: float) -> tuple[int, int]:
        """The end whose tokens since the first epoch come nearest to `wanted`, and those tokens: errors do not add up
        over epochs.

        Args:
            end, used: of the epoch before.
        """
        lengths, ahead = self.lengths[task], 64
        while True:
            stretch = lengths[self._stretch(task, end, end + ahead)]
            after = used + np.cumsum(stretch)
            fits = int(np.searchsorted(after - stretch / 2, wanted, side="right"))
            if fits < len(stretch):
                return end + fits, int(after[fits - 1]) if fits else used
            end, used, ahead = end + fits, int(after[-1]), 2 * ahead

    def _stretch(self, task: int, start: int, end: int) -> np.ndarray:
        """Draws `start` to `end` of a task's endless series of shuffles."""
        rows, pieces = len(self.lengths[task]), [np.empty(0, dtype=np.int64)]
        for cycle in range(start // rows, -(-end // rows)):
            shuffle = self._shuffle(task, cycle)
            pieces.append(shuffle[max(0, start - cycle * rows) : end - cycle * rows])
        return np.concatenate(pieces)

    def _shuffle(self, task: int, number: int) -> np.ndarray:
        if self._shuffles.get(task, (-1,))[0] != number:
            seed = [self.seed, crc32(self.names[task].encode()), number]
            self._shuffles[task] = number, np.random.default_rng(seed).permutation(len(self.lengths[task]))
        return self._shuffles[task][1]


def realised_table(rows: Sequence[Realised], title: str) -> Table:
    """What `Mixture.realised` says, for a terminal."""
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("task")
    held_out = [key for key in ("validation", "test") if all(key in row for row in rows)]
    sizes = ["train", "valid.", "test"] if held_out else ["train"]
    for heading in (*sizes, "drawn", "passes", "tokens", "wanted", "of examples", "of tokens"):
        table.add_column(heading, justify="right")
    some_cut = any(row["cut"] or row["dropped"] for row in rows)
    for heading in ("cut", "left out") if some_cut else ():
        table.add_column(heading, justify="right")
    for row in rows:
        counts = [f"{row[key]:,}" for key in ("available", *held_out, "drawn")]  # type: ignore[literal-required]
        counts += [f"{row['passes']:.2f}", f"{row['tokens']:,}"]
        shares = [f"{row['wanted']:.1%}", f"{row['share_of_examples']:.1%}", f"{row['share_of_tokens']:.1%}"]
        lost = [f"{row['cut']:,}", f"{row['dropped']:,}"] if some_cut else []
        table.add_row(Text(row["task"]), *counts, *shares, *lost)
    return table


def _claims(sizes: np.ndarray, names: list[str], config: MixtureConfig) -> np.ndarray:
    if config.strategy == "temperature":
        assert config.temperature is not None
        return (sizes / sizes.max()) ** (1 / config.temperature)
    if config.strategy == "equal":
        return np.ones_like(sizes)
    if config.strategy == "capped":
        return np.minimum(sizes, config.cap or np.inf)
    if config.strategy == "weights":
        assert config.weights is not None
        return np.array([config.weights[name] for name in names], dtype=float)
    return sizes


def _largest_remainder(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that sum to `total` and are each within one of their share of it (Hamilton's method)."""
    exact = shares * total
    whole = np.floor(exact + 1e-9).astype(np.int64)  # the summand undoes rounding errors such as 2.9999999999999996
    order = np.argsort(whole - exact, kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return whole
