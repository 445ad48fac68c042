"""From rows to the batches of a whole run: packed, shuffled, and fixed before the first step.

Each epoch has an order of its own, drawn from the seed alone, so that every method sees the same data in the same
order. All epochs have the same number of packed rows, which is what lets the Trainer count steps and resume.
"""

from collections.abc import Callable, Iterator, Sequence
from inspect import signature

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset, Sampler
from trl import pack_dataset

from loraweave.data.rows import PackedRow, TokenRows
from loraweave.quiet import quiet_libraries

Pack = Sequence[int]


def pack(lengths: np.ndarray, order: Sequence[int], max_length: int) -> list[Pack]:
    """Group examples into rows of at most `max_length` tokens, none of them split, with TRL's packing.

    Args:
        lengths: (examples,) tokens of every example.
        order: which examples, and in which order they are offered.
        max_length: tokens per row; an example may not be longer.

    Returns:
        For each row the examples in it.
    """
    chosen = np.asarray(order, dtype=np.int64)
    sizes = lengths[chosen]
    # The packing looks at lengths alone, so each token is stood for by the number of its example.
    tokens = pa.array(np.repeat(chosen, sizes))
    column = pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(sizes)]), tokens)
    with quiet_libraries():
        packed = pack_dataset(datasets.Dataset(pa.table({"example": column})), max_length, "bfd")
    table = packed.data.table.combine_chunks()
    examples, groups = table["example"].to_pylist(), table["seq_lengths"].to_pylist()
    return [[row[end - 1] for end in np.cumsum(group)] for row, group in zip(examples, groups, strict=True)]


class RowPlan(Dataset[PackedRow]):
    """Every row of a run, epoch after epoch, in the order in which it is trained on.

    Args:
        rows: the examples.
        epoch: the examples of the epoch of a given number, each once for every time it is drawn.
        max_length: tokens per packed row.
        packing: put several examples into a row; else one.
        seed: of the order.
        epochs: epochs wanted at least.
        minimum: rows wanted at least, for runs that are as long as a number of steps.
    """

    def __init__(
        self,
        rows: TokenRows,
        epoch: Callable[[int], Sequence[int]],
        *,
        max_length: int,
        packing: bool,
        seed: int,
        epochs: int = 1,
        minimum: int = 0,
    ) -> None:
        self.rows = rows
        self.packed = packing
        by_epoch: list[list[Pack]] = []
        while len(by_epoch) < epochs or len(by_epoch) * max(map(len, by_epoch)) < minimum:
            number = len(by_epoch)
            examples = epoch(number)
            packs = pack(rows.lengths, examples, max_length) if packing else [[int(i)] for i in examples]
            order = np.random.default_rng([seed, number]).permutation(len(packs))
            by_epoch.append([packs[i] for i in order])
        # Packed epochs differ by a few rows, unpacked ones do where a mixture counts tokens.
        self.rows_per_epoch = (max if packing else min)(map(len, by_epoch))
        self.packs = [pack for packs in by_epoch for pack in _exactly(self.rows_per_epoch, packs)]

    def __len__(self) -> int:
        """Rows of one epoch: what the Trainer counts its steps by."""
        return self.rows_per_epoch

    def __getitem__(self, index: int) -> PackedRow:
        return self.rows.joined(self.packs[index])

    def examples(self, count: int) -> np.ndarray:
        """The examples in the first `count` rows, each as often as it is seen."""
        return np.array([example for pack in self.packs[:count] for example in pack], dtype=np.int64)


class EpochSampler(Sampler[int]):
    """The rows of the plan's current epoch, in the plan's order."""

    def __init__(self, plan: RowPlan) -> None:
        self.plan = plan
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * len(self.plan)
        return iter(range(start, start + len(self.plan)))


def validation_plan(rows: TokenRows, max_length: int, packing: bool) -> RowPlan:
    """All examples once, in their own order."""
    return RowPlan(rows, lambda _: range(len(rows)), max_length=max_length, packing=packing, seed=0)


@torch.no_grad()
def keeps_examples_apart(model: torch.nn.Module) -> bool:
    """Whether two examples packed into one row get the logits that they get alone.

    Architectures without position ids, or whose state runs along the row, cannot be packed. Tried rather than looked
    up, so that it holds for models that nobody has heard of yet; but a model on the meta device, which has no values,
    is taken at the word of its arguments.
    """
    device = next(model.parameters()).device
    if device.type == "meta":
        return "position_ids" in signature(model.forward).parameters
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    first, second = (torch.arange(1, 8, device=device) * k % vocabulary for k in (3, 5))
    both = torch.cat([first, second])[None]
    positions = torch.cat([torch.arange(7, device=device)] * 2)[None]
    was_training = model.training
    model.eval()
    try:
        together = model(input_ids=both, position_ids=positions, use_cache=False).logits[0, 7:]
        alone = model(input_ids=second[None], use_cache=False).logits[0]
    except TypeError:  # the model takes no position ids
        return False
    finally:
        model.train(was_training)
    scale = alone.abs().max().clamp(min=1e-6)
    return bool((together - alone).abs().max() / scale < (1e-3 if alone.dtype == torch.float32 else 5e-2))


def _exactly(count: int, packs: list[Pack]) -> list[Pack]:
    """So many rows: the fullest are cut in two, between examples, until there are enough; rows too many are dropped."""
    packs = packs[:count]
    while len(packs) < count:
        fullest = max(range(len(packs)), key=lambda i: len(packs[i]))
        examples = packs[fullest]
        packs[fullest : fullest + 1] = [examples[: len(examples) // 2], examples[len(examples) // 2 :]]
    return packs
