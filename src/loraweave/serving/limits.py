"""What the server takes at most, and the memory that this needs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from transformers import ContinuousBatchingConfig, PreTrainedModel
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

from loraweave.amounts import memory
from loraweave.errors import UserError

PAGE = 32
"""Tokens of a block of the cache; a request takes whole blocks."""
LONGEST_CONTEXT = 4096
"""Tokens of a request where nobody says how many, and the base could read more."""
_CPU_CACHE = 2 * 10**9


@dataclass(frozen=True)
class Limits:
    """What is taken at most.

    Attributes:
        batch: requests that are answered at the same time.
        queue: requests that wait for a place beside them; the next one is told to come again later (429).
        context: tokens of a request, prompt and answer; None: as many as the base was made for, up to 4,096.
        answer: tokens of an answer to a request that does not say how many.
        seconds: from the end of a request's body to the end of its answer.
        body: bytes of a request's body.
        memory: bytes for keys and values of requests under way; None: enough for `batch` requests of `context` tokens,
            but no more than 2 GB on a CPU and half of what is free on a GPU.
        connections: open at the same time, idle ones too.
        experts: of a library that are kept in memory while nobody asks for them.
        head_seconds: until a request's head has come, and then until its body has.
    """

    batch: int = 32
    queue: int = 128
    context: int | None = None
    answer: int = 256
    seconds: float = 120.0
    body: int = 1_000_000
    memory: int | None = None
    connections: int = 512
    head_seconds: float = 10.0
    experts: int = 64


@dataclass(frozen=True)
class Room:
    """What there is room for.

    Attributes:
        context: tokens of one request.
        pages: blocks of the cache.
        settings: of the batch, for Transformers.
    """

    context: int
    pages: int
    settings: ContinuousBatchingConfig

    @staticmethod
    def pages_of(tokens: int) -> int:
        """The blocks that so many tokens take."""
        return -(-tokens // PAGE)


def room_for(base: PreTrainedModel, limits: Limits) -> Room:
    """Room for requests on a base, within the limits.

    Raises:
        UserError: the base cannot read a request of that size, or the memory does not hold one.
    """
    config = base.config.get_text_config()
    reads = getattr(config, "max_position_embeddings", None) or LONGEST_CONTEXT
    if limits.context is not None and limits.context > reads:
        raise UserError(f"a context of {limits.context:,} tokens is more than the base was made for, {reads:,}")
    alike = _alike(config)
    if limits.context is not None and limits.context > alike:
        raise UserError(
            f"a context of {limits.context:,} tokens: one request above {alike:,} turns the positions of all others in "
            f"its batch in another way on this base (longrope), and so their answers; --context {alike} at most"
        )
    context = limits.context or int(min(reads, LONGEST_CONTEXT, alike))
    tokens_at_once = max(limits.batch, 2048 if base.device.type == "cuda" else 512)
    size = base.dtype.itemsize
    kept = config.num_hidden_layers * 2 * find_num_key_value_heads(config) * find_head_dim(config) * size
    # Attention is told apart by a mask of (tokens at once) × (tokens in the cache + tokens at once).
    each, fixed = kept + tokens_at_once * size, tokens_at_once**2 * size
    given = limits.memory if limits.memory is not None else _to_be_had(base.device)
    holds = (given - fixed) // each // PAGE
    pages = min(holds, limits.batch * Room.pages_of(context))
    if pages < Room.pages_of(context):
        wanted = fixed + each * Room.pages_of(context) * PAGE
        raise UserError(
            f"{memory(given)} for keys and values do not hold a request of {context:,} tokens, which takes "
            f"{memory(wanted)}: a smaller --context, or more --cache-gb"
        )
    settings = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=pages,
        max_batch_tokens=tokens_at_once,
        max_requests_per_batch=limits.batch,
        max_memory_percent=1.0,
        max_blocks_per_request=0,
        allow_block_sharing=False,  # the same words have other keys and values under another adapter
        use_async_batching=False,  # a batch is told its voices right before the model is called
        use_cuda_graph=False,  # and a recorded graph would not hear them
        safety_margin=0.0,  # room for a request's whole answer is there before it begins
        auto_switch_to_flash=False,
    )
    return Room(context, pages, settings)


def _alike(config: Any) -> float:
    """Up to how many tokens a base turns positions in one and the same way, whoever else is in the batch."""
    said = getattr(config, "rope_parameters", None) or {}
    kinds = [said, *(each for each in said.values() if isinstance(each, Mapping))]  # one for each kind of layer
    long = (each for each in kinds if each.get("rope_type") == "longrope")
    return min((each["original_max_position_embeddings"] for each in long), default=math.inf)


def _to_be_had(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return min(_CPU_CACHE, psutil.virtual_memory().available // 4)
