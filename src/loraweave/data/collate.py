"""From packed rows to one batch of tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from loraweave.data.rows import PackedRow


class Collator:
    """Pad rows to the longest of the batch, and say which positions are scored.

    Examples that share a row are kept apart by `position_ids` that restart at each of them, with no attention mask:
    transformers builds the block mask from that. Padding stands at the end, as further such blocks, none of them longer
    than the examples: a model may have no positions beyond. Where no row holds two examples, no positions are given,
    and the attention takes its fast causal path.

    Args:
        pad_token_id: fills the rows up; never scored, never attended to.
        one_row: flatten the batch into a single row instead, which is how flash attention takes packed examples.
        multiple_of: round the length up, for GPUs.
    """

    def __init__(self, pad_token_id: int, one_row: bool = False, multiple_of: int = 1) -> None:
        self.pad_token_id = pad_token_id
        self.one_row = one_row
        self.multiple_of = multiple_of

    def __call__(self, rows: Sequence[PackedRow]) -> dict[str, Any]:
        """The batch.

        Returns:
            input_ids, labels, tasks, padding (True where there is no token) and, if packed, position_ids, each
            (batch, tokens); scored (n,), the flat positions whose next token has a label; and tokens, the number of
            real ones.
        """
        if self.one_row:
            rows = [{key: np.concatenate([row[key] for row in rows]) for key in rows[0]}]
        lengths = [len(row["input_ids"]) for row in rows]
        width = -(-max(1, *lengths) // self.multiple_of) * self.multiple_of  # a batch may be blank
        batch: dict[str, Any] = {
            "input_ids": _padded([row["input_ids"] for row in rows], width, self.pad_token_id),
            "labels": _padded([row["labels"] for row in rows], width, -100),
            "tasks": _padded([row["tasks"] for row in rows], width, 0),
        }
        batch["padding"] = torch.arange(width) >= torch.tensor(lengths)[:, None]
        if any(len(row["seq_lengths"]) > 1 for row in rows):
            longest = max(int(row["seq_lengths"].max(initial=1)) for row in rows)
            batch["position_ids"] = torch.from_numpy(
                np.stack([_positions(row["seq_lengths"], width, longest) for row in rows])
            )
        # Found here, on the CPU: looking for them on a GPU would make every step wait for it.
        batch["scored"] = (batch["labels"].flatten() != -100).nonzero().flatten() - 1
        batch["tokens"] = sum(lengths)
        return batch


def _positions(lengths: np.ndarray, width: int, longest: int) -> np.ndarray:
    """0, 1, 2, … for each example of a row, and for as many tokens of padding at a time as the longest example has."""
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.concatenate([np.arange(len(starts)) - starts, np.arange(width - len(starts)) % longest])


def _padded(rows: Sequence[np.ndarray], width: int, fill: int) -> torch.Tensor:
    """Rows as one tensor (rows, width), filled up with `fill`."""
    out = np.full((len(rows), width), fill, dtype=np.int64)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(out)
