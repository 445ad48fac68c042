"""Score many answers to one prompt while reading the prompt once.

lm-eval runs prompt and answer together for every choice; with ten choices of a few tokens each, nine tenths of that is
the same prompt again. Here the prompt's keys and values are kept and each answer is read after them.
"""

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from loraweave.evaluation.scored_tokens import batches, score_tokens

Answer = tuple[float, bool]


def score_answers(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    rows: int = 64,
    tokens: int | None = None,
) -> list[list[Answer]] | None:
    """The log-probability of every answer after its prompt, and whether the model would write it greedily.

    The prompts are read in one batch, and what follows the first token of longer answers in as many as it takes.

    Args:
        model: a causal model, which has been told its task where it needs one.
        prompts: token ids.
        answers: for each prompt, the token ids of one answer or more, none of them empty.
        rows: answers that are read at once, at most.
        tokens: of these answers with their prompts, at most; None for as many as there are.

    Returns:
        As many (sum of log-probabilities in nats, greedy) as there are answers for each prompt; None when the model
        keeps no cache that rows can be picked from (a sliding window, a state-space model).
    """
    longest = max(map(len, prompts))
    device = model.device
    # On the left, so that every answer starts in the same column.
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    owners = [i for i, choices in enumerate(answers) for _ in choices]
    flat = [list(answer) for choices in answers for answer in choices]
    owner = torch.tensor(owners, device=device)
    first = score_tokens(
        model,
        (owner + 1) * longest - 1,
        torch.tensor([answer[0] for answer in flat], device=device),
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=True,
    )
    cache = first.cache
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    sums, greedy = first.log_probs.tolist(), first.greedy.tolist()
    longer = [index for index, answer in enumerate(flat) if len(answer) > 1]
    for group in batches([longest + len(flat[index]) - 1 for index in longer], rows, tokens):
        picked = [longer[number] for number in group]
        found = _rest(model, cache, mask, owner[picked], [flat[index] for index in picked])
        for index, (value, is_greedy) in zip(picked, found, strict=True):
            sums[index] += value
            greedy[index] &= is_greedy
    each = zip(sums, greedy, strict=True)
    return [[next(each) for _ in choices] for choices in answers]


def _rest(
    model: PreTrainedModel | PeftModel, cache: DynamicCache, mask: Tensor, owner: Tensor, answers: Sequence[list[int]]
) -> list[Answer]:
    """The same of answers without their first token, two at least in each, after their prompts in `cache`."""
    width = max(map(len, answers)) - 1
    rest = torch.tensor([answer[:-1] + [0] * (width + 1 - len(answer)) for answer in answers], device=mask.device)
    there = torch.tensor([[1] * (len(a) - 1) + [0] * (width + 1 - len(a)) for a in answers], device=mask.device)
    places = [row * width + column for row, answer in enumerate(answers) for column in range(len(answer) - 1)]
    found = score_tokens(
        model,
        torch.tensor(places, device=mask.device),
        torch.tensor([token for answer in answers for token in answer[1:]], device=mask.device),
        input_ids=rest,
        attention_mask=torch.cat([mask[owner], there], dim=1),
        position_ids=mask.sum(1)[owner, None] + torch.arange(width, device=mask.device),
        past_key_values=_of_rows(cache, owner),
        use_cache=True,
    )
    sizes = [len(answer) - 1 for answer in answers]
    each = zip(found.log_probs.cpu().split(sizes), found.greedy.cpu().split(sizes), strict=True)
    return [(float(values.double().sum()), bool(greedy.all())) for values, greedy in each]


def _of_rows(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """A copy of some rows of a cache, in the order given; the cache itself stays as it is."""
    made = DynamicCache()
    for number, layer in enumerate(cache.layers):
        made.update(layer.keys[rows], layer.values[rows], number)
    return made
