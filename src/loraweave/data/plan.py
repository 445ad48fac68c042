"""What a run trains on, row by row: known in all its numbers before the first step, worked out epoch by epoch.

Each epoch has an order of its own, drawn from the seed alone, so that every method sees the same data in the same
order. All epochs have the same number of rows, which is what lets the Trainer count steps and resume.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from torch.utils.data import Dataset

from loraweave.data.packing import Packs, pack, split_into
from loraweave.data.rows import PackedRow, TokenRows
from loraweave.data.schedule import Schedule

BLANK = -1
"""The index of a row without a token: it fills batches up where processes must have the same number of them."""


class RowPlan(Dataset[PackedRow]):
    """Every row of a run, epoch after epoch, in the order in which it is trained on.

    An epoch shows every example that is drawn for it. Where epochs come to different numbers of rows, all get the
    largest: rows that hold several examples are divided, and an epoch with fewer examples than rows shows some again.

    Args:
        rows: the examples.
        epoch: (n,) the examples of the epoch of a given number, each once for every time it is drawn.
        max_length: tokens per packed row.
        packing: put several examples into a row; else one.
        seed: of the order.
        schedule: how long the run is: the number of rows is the largest over its epochs.
        period: after so many epochs their examples are those of the first again, in another order; None: never.

    Raises:
        ValueError: the first epoch has no examples.
    """

    def __init__(
        self,
        rows: TokenRows,
        epoch: Callable[[int], np.ndarray],
        *,
        max_length: int,
        packing: bool,
        seed: int,
        schedule: Schedule,
        period: int | None = None,
    ) -> None:
        self.rows = rows
        self.packed = packing
        self.max_length = max_length
        self.seed = seed
        self._draw = epoch
        self._period = period
        self.rows_per_epoch = 0
        number = 0
        while number < schedule.epochs_begun(max(1, self.rows_per_epoch)) and number != period:
            drawn = self._drawn(number)
            self.rows_per_epoch = max(self.rows_per_epoch, len(self._packed(drawn)) if packing else len(drawn))
            number += 1
        self._tokens = [0]  # in the first 0, 1, 2, … epochs
        self._worked_out: tuple[int, tuple[Packs, np.ndarray, np.ndarray]] | None = None  # the latest epoch

    def __len__(self) -> int:
        """Rows of one epoch: what the Trainer counts its steps by."""
        return self.rows_per_epoch

    def __getitem__(self, index: int) -> PackedRow:
        return self.rows.joined(self.examples_at(index))

    def examples_at(self, index: int) -> np.ndarray:
        """The examples in one row; indices run on from epoch to epoch, and `BLANK` has none."""
        if index == BLANK:
            return np.empty(0, dtype=np.int64)
        epoch, row = divmod(index, len(self))
        packs, order, _ = self._epoch(epoch)
        return packs[order[row]]

    def seen(self, count: int) -> np.ndarray:
        """(examples,) how often each is in the first `count` rows."""
        epochs, rest = divmod(count, len(self))
        times = np.zeros(len(self.rows), dtype=np.int64)
        whole, more = divmod(epochs, self._period) if self._period else (0, epochs)
        for number in range(self._period if whole and self._period else more):
            np.add.at(times, self._shown(number), whole + (number < more))
        if rest:
            packs, order, _ = self._epoch(epochs)
            np.add.at(times, np.concatenate([packs[row] for row in order[:rest]]), 1)
        return times

    def tokens(self, count: int) -> int:
        """Tokens in the first `count` rows."""
        epochs, rest = divmod(count, len(self))
        whole, more = divmod(epochs, self._period) if self._period else (0, epochs)
        total = self._tokens_of_epochs(more)
        if whole:
            assert self._period is not None
            total += whole * self._tokens_of_epochs(self._period)
        return total + (int(self._epoch(epochs)[2][rest - 1]) if rest else 0)

    def _tokens_of_epochs(self, count: int) -> int:
        while len(self._tokens) <= count:
            shown = self._shown(len(self._tokens) - 1)
            self._tokens.append(self._tokens[-1] + int(self.rows.lengths[shown].sum()))
        return self._tokens[count]

    def _drawn(self, number: int) -> np.ndarray:
        """The examples drawn for an epoch; where a mixture by tokens leaves it none, those of the one before."""
        number = number % self._period if self._period else number
        while not len(drawn := np.asarray(self._draw(number), dtype=np.int64)):
            if number == 0:
                raise ValueError("the first epoch has no examples")
            number -= 1
        return drawn

    def _shown(self, number: int) -> np.ndarray:
        """The examples that an epoch shows: at least one for each of its rows."""
        drawn = self._drawn(number)
        return np.resize(drawn, max(len(drawn), len(self)))

    def _packed(self, examples: np.ndarray) -> Packs:
        return pack(self.rows.lengths, examples, self.max_length)

    def _epoch(self, number: int) -> tuple[Packs, np.ndarray, np.ndarray]:
        if self._worked_out is None or self._worked_out[0] != number:
            self._worked_out = number, self._work_out(number)
        return self._worked_out[1]

    def _work_out(self, number: int) -> tuple[Packs, np.ndarray, np.ndarray]:
        """The rows of an epoch, their order, and the tokens in the first 1, 2, 3, … of them."""
        shown = self._shown(number)
        if self.packed and len(shown) > len(self):
            packs = split_into(self._packed(shown), len(self))
        else:
            packs = Packs(shown, np.arange(len(shown) + 1))
        order = np.random.default_rng([self.seed, number]).permutation(len(packs))
        tokens = np.add.reduceat(self.rows.lengths[packs.examples], packs.starts[:-1])
        return packs, order, np.cumsum(tokens[order])


def validation_plan(rows: TokenRows, max_length: int, packing: bool) -> RowPlan:
    """All examples once; the order of rows is another, but always the same."""
    once, epoch = Schedule(rows_per_step=1, epochs=1), partial(_all, len(rows))
    return RowPlan(rows, epoch, max_length=max_length, packing=packing, seed=0, schedule=once)


def _all(count: int, epoch: int) -> np.ndarray:
    return np.arange(count)
