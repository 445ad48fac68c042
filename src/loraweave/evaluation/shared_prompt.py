"""Score many answers to one prompt while reading the prompt once.

lm-eval runs prompt and answer together for every choice; with ten choices of a few tokens each, nine tenths of that is
the same prompt again. Here the prompt's keys and values are kept and each answer is read after them.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

Answer = tuple[float, bool]


def score_answers(
    model: PreTrainedModel, prompts: Sequence[list[int]], answers: Sequence[Sequence[list[int]]]
) -> list[list[Answer]] | None:
    """The log-probability of every answer after its prompt, and whether the model would write it greedily.

    prompts: token ids; answers: for each prompt, the token ids of one answer or more, none of them empty.

    Returns as many (sum of log-probabilities in nats, greedy) as there are answers for each prompt; None when the
    model keeps no cache that rows can be picked from (a sliding window, a state-space model).
    """
    longest = max(map(len, prompts))
    device = model.device
    # On the left, so that every answer starts in the same column.
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    with torch.no_grad():
        read = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        cache = read.past_key_values
        if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None
        owner = torch.tensor([i for i, choices in enumerate(answers) for _ in choices], device=device)
        flat = [answer for choices in answers for answer in choices]
        logits = read.logits[owner, -1:]
        width = max(map(len, flat))
        if width > 1:
            cache.batch_select_indices(owner)
            rest, rest_mask = _padded([answer[:-1] for answer in flat], width - 1, device)
            starts = mask.sum(1)[owner, None]
            read = model(
                input_ids=rest,
                attention_mask=torch.cat([mask[owner], rest_mask], dim=1),
                position_ids=starts + torch.arange(width - 1, device=device),
                past_key_values=cache,
                use_cache=True,
            )
            logits = torch.cat([logits, read.logits], dim=1)
        targets, scored = _padded(flat, width, device)
        chosen = logits.float().log_softmax(dim=-1).gather(2, targets[..., None])[..., 0]
        sums = (chosen * scored).sum(dim=1).tolist()
        greedy = ((logits.argmax(dim=-1) == targets) | (scored == 0)).all(dim=1).tolist()
    each = zip(sums, greedy, strict=True)
    return [[next(each) for _ in choices] for choices in answers]


def batches(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices in order, in groups whose sizes add up to `most` at most; one index at least in each."""
    group: list[int] = []
    used = 0
    for index, size in enumerate(sizes):
        if group and used + size > most:
            yield group
            group, used = [], 0
        group.append(index)
        used += size
    if group:
        yield group


def _padded(rows: Sequence[list[int]], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids padded on the right, and 1 where there is an id."""
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask
