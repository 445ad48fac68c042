"""Tasks as numbers: the ids of a call's tasks, and each token's row of a table that has one for every task."""

from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from loraweave.errors import UserError, nearest

Tasks: TypeAlias = str | Sequence[str] | int | Sequence[int] | Tensor


def checked_ids(given: Tasks | None, task_names: Sequence[str]) -> Tensor:
    """Tasks as ids into `task_names`; arguments, shapes and errors as of `CallContext.ids`."""
    known = f"the adapter's tasks are {', '.join(task_names)}"
    if given is None:
        raise UserError(
            f"this adapter needs to know the task: pass tasks=… (names or ids) or use loraweave.task(…); {known}"
        )
    if isinstance(given, Tensor):
        ids = given
        if ids.is_floating_point() or ids.ndim > 2:
            raise UserError(
                f"tasks must be a LongTensor (batch,) or (batch, tokens), got {ids.dtype} {tuple(ids.shape)}"
            )
    else:
        listed = [given] if isinstance(given, (str, int)) else list(given)
        ids = torch.tensor([_id_of(item, task_names, known) for item in listed])
        ids = ids[0] if isinstance(given, (str, int)) else ids
    if not torch.compiler.is_compiling() and ids.numel():
        low, high = torch.aminmax(ids)
        if low < 0 or high >= len(task_names):
            wrong = int(low if low < 0 else high)
            raise UserError(f"task id {wrong} is out of range 0 … {len(task_names) - 1}; {known}")
    return ids


def _id_of(item: Any, task_names: Sequence[str], known: str) -> int:
    if isinstance(item, str):
        if item not in task_names:
            raise UserError(f"unknown task {item!r}{nearest(item, task_names)}; {known}")
        return list(task_names).index(item)
    return int(item)


def per_token(
    values: Tensor,
    ids: Tensor,
    leading: torch.Size,
    inputs: Collection[tuple[int, int]] = (),
    layer: str = "",
    routed: bool = False,
) -> Tensor:
    """Pick each token's row of a per-task table.

    Args:
        values: (K, …) one row per task.
        ids: (), (batch,) or (batch, tokens).
        leading: of the layer's input, which the rows must fit: (batch, tokens), (batch · tokens,), or with a batch that
            generation has expanded (beams, samples).
        inputs: every (batch, tokens) that the model was called with, where that is known.
        layer: its path, for messages.
        routed: the layer may get some of the tokens, in an order of their own.

    Returns:
        values[ids] with leading dimensions that broadcast against `leading`.

    Raises:
        UserError: the ids cannot be matched to the input.
    """
    if ids.numel() == 1:
        return values[ids.reshape(())]
    if len(leading) == 1:
        ids = _of_vectors(ids, leading[0], inputs, layer, routed)
    else:
        ids = _of_rows(ids, leading, inputs, layer)
    if ids.ndim == 0:
        return values[ids]
    picked = values.index_select(0, ids.flatten()).view(*ids.shape, *values.shape[1:])
    for _ in range(len(leading) - ids.ndim):
        picked = picked.unsqueeze(ids.ndim)
    return picked


def _of_rows(ids: Tensor, leading: torch.Size, inputs: Collection[tuple[int, int]], layer: str) -> Tensor:
    """Ids for an input (batch, tokens, …): (batch,) or (batch, tokens), of a batch that may be an expanded one."""
    rows = leading[0] if leading else 1
    if ids.ndim == 2 and len(leading) >= 2 and ids.shape[1] != leading[1]:
        raise UserError(
            f"layer {layer}: tasks {tuple(ids.shape)} do not fit an input of {tuple(leading)} (batch, tokens)"
        )
    if ids.shape[0] == rows:
        return ids
    if not (_may_be_expanded(ids, rows) and (not inputs or any(rows == batch for batch, _ in inputs))):
        raise UserError(f"layer {layer}: tasks for {ids.shape[0]} sequences do not fit an input of {tuple(leading)}")
    return ids.repeat_interleave(rows // ids.shape[0], dim=0)


def _may_be_expanded(ids: Tensor, rows: int) -> bool:
    """Whether generation may have repeated each sequence in its place. With gradients it is a trainer that repeats
    rows, in an order of its own."""
    return rows % ids.shape[0] == 0 and not torch.is_grad_enabled()


def _of_vectors(ids: Tensor, rows: int, inputs: Collection[tuple[int, int]], layer: str, routed: bool) -> Tensor:
    """Ids (rows,) for an input without a dimension of tokens: all tokens of the call, or one vector per sequence. Or
    one id () where it is the same for all, whichever they are."""
    if not routed:
        if ids.numel() == rows:
            return ids.reshape(-1)
        if ids.ndim == 2:
            raise UserError(
                f"layer {layer}: tasks {tuple(ids.shape)} are per token, but an adapted layer gets {rows} vectors, as "
                "poolers and classifiers do: give one task per sequence, or leave that layer out with exclude_modules"
            )
        batches = [(b, tokens) for b, tokens in inputs if b == len(ids) or _may_be_expanded(ids, b)]
        known = {count for batch, tokens in batches for count in (batch * tokens, batch)}
        if rows in known:
            return ids.repeat_interleave(rows // len(ids))
    one = ids.flatten()[0]
    if rows == 0 or bool((ids == one).all()):
        return one
    raise UserError(
        f"layer {layer} gets {rows} vectors, and tasks {tuple(ids.shape)} do not say which of them has which task, as "
        "with experts, whose tokens a router chooses: give one task for the whole call, or leave that layer out with "
        "exclude_modules"
    )
