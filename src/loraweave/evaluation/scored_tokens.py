"""Log-probabilities of the tokens that are scored: these positions alone go through the language-model head, a part at
a time, so that no batch is ever held as logits (tokens × vocabulary, in float32) as a whole."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from loraweave.errors import UserError

LOGIT_BYTES = {"cpu": 2**26}
LOGIT_BYTES_ELSEWHERE = 2**29
"""Float32 logits that are made at once, at most; a few copies of as much are needed beside them."""


class Scored(NamedTuple):
    """What a model says of tokens that were asked for.

    Attributes:
        log_probs: (m,) float32, in nats.
        greedy: (m,) whether no other token is likelier.
        cache: the keys and values that the model kept, if it was told to.
    """

    log_probs: Tensor
    greedy: Tensor
    cache: Any


def score_tokens(model: PreTrainedModel | PeftModel, places: Tensor, tokens: Tensor, **inputs: Any) -> Scored:
    """Read a batch, and say how likely tokens are right after some of its places.

    Whatever a model does behind its head, such as Gemma 2's soft-capping, it does here: the head is run by the model's
    own forward, of which each part of the hidden states is given to it.

    Args:
        model: a causal model, which has been told its task where it needs one.
        places: (m,) in the flattened batch (rows · columns), in any order; one may be there several times.
        tokens: (m,) ids.
        inputs: of the model: `input_ids` (rows, columns) and whatever goes with them.

    Raises:
        UserError: it says no numbers.
    """
    unique, index = places.unique(return_inverse=True)
    log_probs = torch.empty(len(places), dtype=torch.float32, device=places.device)
    greedy = torch.empty(len(places), dtype=torch.bool, device=places.device)
    cache, start = None, 0
    with torch.no_grad():
        for kept, logits in _logits(model, unique, inputs):
            here = ((index >= start) & (index < start + len(logits))).nonzero()[:, 0]
            rows, asked = index[here] - start, tokens[here]
            log_probs[here] = logits[rows, asked].float() - logits.float().logsumexp(dim=-1)[rows]
            greedy[here] = logits.argmax(dim=-1)[rows] == asked
            cache, start = kept, start + len(logits)
    if log_probs.isnan().any():  # of such numbers the first answer of all would be taken for the likeliest
        raise UserError(
            "what the model computes is no number (NaN): its weights are damaged, or its training ran away; or it is "
            "loaded in float16 (`dtype`) and made for bfloat16, whose numbers grow larger: take bfloat16 or float32"
        )
    return Scored(log_probs, greedy, cache)


def score_rows(
    model: PreTrainedModel | PeftModel, rows: Sequence[Sequence[int]], asked: Sequence[Sequence[tuple[int, int]]]
) -> list[list[tuple[float, bool]]]:
    """Read rows of token ids in one batch, filled up on the right, and say how likely tokens are.

    Args:
        model: as of `score_tokens`.
        rows: ids of each row.
        asked: for each row, pairs of a column and the token that may come right after it.

    Returns:
        For each row and pair the log-probability in nats, and whether no other token is likelier.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=model.device)
    places = [row * width + column for row, pairs in enumerate(asked) for column, _ in pairs]
    tokens = [token for pairs in asked for _, token in pairs]
    # No mask: a causal model sees nothing of what stands behind a token.
    found = score_tokens(
        model,
        torch.tensor(places, device=model.device),
        torch.tensor(tokens, device=model.device),
        input_ids=ids,
        use_cache=False,
    )
    each = zip(found.log_probs.tolist(), found.greedy.tolist(), strict=True)
    return [[next(each) for _ in pairs] for pairs in asked]


def batches(lengths: Sequence[int], rows: int, tokens: int | None = None) -> Iterator[list[int]]:
    """Indices in groups, the longest first: of `rows` at most, filled up to `tokens` at most, and one at least."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        size = len(group) + 1
        if group and (size > rows or (tokens is not None and size * lengths[group[0]] > tokens)):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _logits(model: PreTrainedModel | PeftModel, places: Tensor, inputs: dict[str, Any]) -> Iterator[tuple[Any, Tensor]]:
    """What the model keeps, and (n, vocabulary) logits at some places of a batch, part by part in their order."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    most = LOGIT_BYTES.get(base.device.type, LOGIT_BYTES_ELSEWHERE) // (4 * base.config.get_text_config().vocab_size)
    step = max(1, most)
    backbone = base.get_decoder()  # OPT's head is given what its decoder says, and passes its base model by
    read: list[tuple[Any, Sequence[Tensor]]] = []

    def pick(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = getattr(output, "last_hidden_state", None)
        if hidden is not None:
            read.append((output, hidden.flatten(0, 1)[places].split(step)))
            output.last_hidden_state = read[0][1][0][None]
        return output

    hook = backbone.register_forward_hook(pick) if backbone is not base else None
    try:
        found = model(**inputs)
    finally:
        if hook is not None:
            hook.remove()
    cache = getattr(found, "past_key_values", None)
    if not read:  # a model that shows nothing of what its head is given
        for part in found.logits.flatten(0, 1)[places].split(step):
            yield cache, part
        return
    output, parts = read[0]
    yield cache, found.logits[0]
    del found
    for part in parts[1:]:
        output.last_hidden_state = part[None]
        with _returning(backbone, output):
            logits = model(**inputs).logits[0]
        yield cache, logits


@contextmanager
def _returning(module: nn.Module, output: Any) -> Iterator[None]:
    """Inside it a module does not run, but returns what it returned before."""
    own = module.__dict__.get("forward")
    module.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
