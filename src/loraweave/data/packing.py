"""Packing: several examples to a row, none of them split; and whether a model keeps them apart."""

from bisect import bisect_left, insort
from dataclasses import dataclass
from inspect import signature

import numpy as np
import torch


@dataclass(frozen=True)
class Packs:
    """Which examples share a row.

    Attributes:
        examples: (n,) those of the first row, then of the second, ….
        starts: (rows + 1,) where each row begins in `examples`, and the end.
    """

    examples: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.examples[self.starts[row] : self.starts[row + 1]]


def pack(lengths: np.ndarray, order: np.ndarray, max_length: int) -> Packs:
    """Group examples into rows of at most `max_length` tokens by best fit decreasing, none of them split.

    The longest come first, each goes to the fullest row that has room for it. Examples of one length are placed
    together, so that the time follows the number of different lengths and not of examples.

    Args:
        lengths: (examples,) tokens of every example, at least 1 and at most `max_length`.
        order: (n,) which examples; of one length, in the order in which they are placed.
        max_length: tokens per row.
    """
    sizes = lengths[order]
    by_size = np.argsort(-sizes, kind="stable")
    row_of = np.empty(len(order), dtype=np.int64)
    rows = placed = 0
    spaces: list[int] = []  # of the rows that still have some, sorted
    with_space: dict[int, np.ndarray] = {}

    def keep(which: np.ndarray, space: int) -> None:
        if not space or not len(which):
            return
        if space in with_space:
            which = np.concatenate([with_space[space], which])
        else:
            insort(spaces, space)
        with_space[space] = which

    different, counts = np.unique(-sizes, return_counts=True)
    for size, left in zip((-different).tolist(), counts.tolist(), strict=True):
        while left:
            if (at := bisect_left(spaces, size)) < len(spaces):
                space = spaces.pop(at)
                open_rows = with_space.pop(space)
            else:
                space = max_length
                open_rows = np.arange(rows, rows - (-left // (space // size)))
                rows += len(open_rows)
            each = space // size  # what is left of a row is its best fit again, until the next does not go in
            used = open_rows[: -(-left // each)]
            take = min(left, each * len(used))
            row_of[by_size[placed : placed + take]] = np.repeat(used, each)[:take]
            placed, left = placed + take, left - take
            last = take - each * (len(used) - 1)
            keep(used[:-1], space - each * size)
            keep(used[-1:], space - last * size)
            keep(open_rows[len(used) :], space)
    together = np.argsort(row_of, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=rows))])
    return Packs(order[together], starts)


def split_into(packs: Packs, rows: int) -> Packs:
    """The same examples in so many rows: those with most examples are cut in two, between examples.

    Args:
        rows: at least as many as there are, and no more than there are examples.
    """
    starts = packs.starts
    while (missing := rows - (len(starts) - 1)) > 0:
        sizes = np.diff(starts)
        fullest = np.argsort(-sizes, kind="stable")[:missing]
        fullest = fullest[sizes[fullest] > max(1, sizes.max() // 2)]
        starts = np.sort(np.concatenate([starts, starts[fullest] + sizes[fullest] // 2]))
    return Packs(packs.examples, starts)


@torch.no_grad()
def keeps_examples_apart(model: torch.nn.Module) -> bool:
    """Whether two examples packed into one row get the logits that they get alone, whatever the first one says.

    Architectures without position ids, or whose state runs along the row, cannot be packed. Tried rather than looked
    up, so that it holds for models that nobody has heard of yet; but a model on the meta device, which has no values,
    is taken at the word of its arguments, and of whether it is stateful.
    """
    device = next(model.parameters()).device
    if device.type == "meta":
        stateful = getattr(model, "_is_stateful", False)
        return "position_ids" in signature(model.forward).parameters and not stateful
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    first, second, other = (torch.arange(1, 8, device=device) * k % vocabulary for k in (3, 5, 7))
    positions = torch.cat([torch.arange(7, device=device)] * 2)[None]

    def behind(one: torch.Tensor) -> torch.Tensor:
        ids = torch.cat([one, second])[None]
        return model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, 7:].float()

    def below(one: torch.Tensor) -> torch.Tensor:
        return model(input_ids=torch.stack([one, second]), use_cache=False).logits[1].float()

    was_training = model.training
    model.eval()
    try:
        together = behind(first)
        alone = model(input_ids=second[None], use_cache=False).logits[0]
        seen = (together - behind(other)).abs().max()
        noise = (below(first) - below(other)).abs().max()  # rows are apart, but experts round with all their tokens
    except TypeError:  # the model takes no position ids
        return False
    finally:
        model.train(was_training)
    scale = alone.abs().max().float().clamp(min=1e-6)
    near, same = (1e-3, 1e-5) if alone.dtype == torch.float32 else (5e-2, 1e-3)
    return bool((together - alone).abs().max() < near * scale and seen <= 4 * noise + same * scale)
