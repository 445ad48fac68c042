"""Before anything is served: two requests answered together must say what each says alone.

Not every architecture keeps requests in a batch apart (one may count positions along the row, whoever's they are), and
not every adapter is on layers that see all tokens in their order. What is wrong must be told, and not served.
"""

import torch
from torch import Tensor

from loraweave.errors import UserError
from loraweave.serving.engine import Engine, FailedError
from loraweave.serving.sampling import Asked
from loraweave.serving.voices import AnySpeakers, Voice

TOKENS = 4
"""Tokens that are compared."""
LENGTHS = (11, 5, 8)
NEAR = {torch.float32: 1e-4, torch.float64: 1e-4}
"""By dtype, how far scores may be apart, in shares of their range: sums come in another order in a batch."""
_NEAR_HALF = 3e-2


@torch.no_grad()
def alone(speakers: AnySpeakers, voices: list[Voice]) -> list[tuple[Asked, list[Tensor]]]:
    """Requests for some voices, and the scores (vocabulary,) of each token that the model writes by itself for them."""
    found = []
    generator = torch.Generator().manual_seed(0)
    known = speakers.base.get_input_embeddings().weight.shape[0]
    for voice, length in zip(voices, LENGTHS, strict=False):
        prompt = torch.randint(known, (length,), generator=generator).tolist()
        ids, scores = list(prompt), []
        for _ in range(TOKENS):
            with speakers.speaking([(voice, len(ids))]):
                row = torch.tensor([ids], device=speakers.base.device)
                scores.append(speakers.base(input_ids=row, use_cache=False).logits[0, -1].float().cpu())
            ids.append(int(scores[-1].argmax()))
        found.append((Asked(tuple(prompt), voice, TOKENS, (), shown=[]), scores))
    return found


async def check_together(engine: Engine, expected: list[tuple[Asked, list[Tensor]]], kind: str) -> None:
    """Raise UserError unless the engine, asked all at once, writes what was found `alone`.

    Args:
        engine: whose batch it is.
        expected: as found.
        kind: of the base, for the message.
    """
    expected = expected[: engine.limits.batch + engine.limits.queue]  # as many as there can be at a time
    engine.start()
    try:
        answers = await _asked(engine, [asked for asked, _ in expected])
    except FailedError:
        raise UserError(f"a base of the kind {kind!r} cannot be served: a batch of several requests fails") from None
    finally:
        await engine.stop()  # its thread would keep a process that serves nothing from ending
    near = NEAR.get(engine.base.dtype, _NEAR_HALF)
    for written, (asked, scores) in zip(answers, expected, strict=True):
        for token, score, together in zip(written, scores, asked.shown or (), strict=True):
            if (together - score).abs().max() > near * (score.max() - score.min()):
                raise UserError(
                    f"a base of the kind {kind!r} cannot be served: in a batch of several requests it answers "
                    "otherwise than to each alone"
                )
            if token != int(score.argmax()):
                break  # as likely as the other; from here on the texts are two


async def _asked(engine: Engine, requests: list[Asked]) -> list[list[int]]:
    """The answers to requests that are in the batch at the same time."""
    if not requests:
        return []
    async with engine.answering(requests[0]) as answer:
        rest = await _asked(engine, requests[1:])
        async for _ in answer.tokens():
            pass
        return [answer.written, *rest]
