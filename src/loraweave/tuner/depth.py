"""Other numbers of heads for lower and for higher blocks of a model (MoLA, 2402.08562)."""

import re
from collections.abc import Sequence

from torch import nn

from loraweave.errors import UserError


def heads_pattern(model: nn.Module, heads: Sequence[int]) -> dict[str, int]:
    """`num_heads_pattern` for a model whose blocks, from the first to the last, have these numbers of heads.

    Args:
        model: its blocks stand in an nn.ModuleList; an encoder and a decoder are divided each by itself.
        heads: N of equal parts of the depth; block i of L has the N of part i · len(heads) // L.

    Raises:
        UserError: the model keeps its blocks in no list.
    """
    lists: dict[str, int] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(path.startswith(f"{outer}.") for outer in lists):
            lists[path] = len(module)
    if not lists:
        raise UserError(
            f"heads_by_depth={list(heads)} divides the model's blocks, and it keeps them in no nn.ModuleList; "
            "use num_heads, or num_heads_pattern by name"
        )
    pattern = {}
    for path, length in lists.items():
        for part, count in enumerate(heads):
            blocks = [str(block) for block in range(length) if block * len(heads) // length == part]
            if blocks:
                pattern[rf"{re.escape(path)}\.({'|'.join(blocks)})\..*"] = count
    return pattern
