"""One call in which several adapters speak, each for its own tokens: requests of different adapters share a batch."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from loraweave.errors import UserError


@dataclass(frozen=True)
class Part:
    """The tokens of a call for which one adapter speaks.

    Attributes:
        rows: (n,) their numbers among all batch · tokens of the call.
        tasks: (n,) their task ids, where the adapter needs them.
    """

    rows: Tensor
    tasks: Tensor | None = None


def by_part(
    x: Tensor,
    y: Tensor,
    parts: Mapping[str, Part],
    add: Callable[[str, Part, Tensor, Tensor], Tensor],
    in_place: bool,
) -> Tensor:
    """y with each adapter's update added for its own tokens; those of no part stay as they are.

    Args:
        x, y: (T, d_in) and (T, d_out).
        parts: by adapter.
        add: (adapter, part, x, y) -> y with the update added, of the part's tokens alone.
        in_place: y may be written into.
    """
    for adapter, part in parts.items():
        if len(part.rows):
            spoken = add(adapter, part, x.index_select(0, part.rows), y.index_select(0, part.rows))
            y = y.index_copy_(0, part.rows, spoken) if in_place else y.index_copy(0, part.rows, spoken)
    return y


def check_all_there(rows: int, inputs: Collection[tuple[int, int]], layer: str, routed: bool) -> None:
    """Raise UserError unless a layer's input has all tokens of the call in their order.

    Args:
        rows: how many vectors it gets.
        inputs: every (batch, tokens) that the model was called with, where that is known.
        layer: its path.
        routed: it may get some of the tokens, in an order of their own.
    """
    if routed or (inputs and all(batch * tokens != rows for batch, tokens in inputs)):
        raise UserError(
            f"layer {layer} gets {rows} vectors, and nothing says which of them belong to which adapter: several "
            "adapters in one call want a layer that sees all tokens in their order"
        )
