"""From an example to token ids, split between prompt and answer exactly where lm-eval's HFLM splits them.

A model that is scored on other tokens than it was trained on loses points that no adapter can win back. So this
follows `lm_eval.api.model.TemplateLM._encode_pair` and `lm_eval.models.huggingface.HFLM.tok_encode` step by step:
spaces at the end of the prompt move to the answer, both are encoded together, a beginning-of-sequence token is added
where the tokenizer adds one and none is there, and an empty prompt is that token alone. On top comes the end of the
answer, which is learned too.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict

from loraweave.data.tail import last_tokens
from loraweave.errors import UserError
from loraweave.tasks.chat import render
from loraweave.tasks.examples import Example

IGNORED = -100
"""The label of a token that carries no loss."""


class EncodedRow(TypedDict):
    """Two lists of one length: token ids, and the same ids where there is loss (`IGNORED` elsewhere)."""

    input_ids: list[int]
    labels: list[int]


class TooLongError(UserError):
    """The answer alone does not fit into the sequence length, so nothing sound can be learned from it."""


@dataclass(frozen=True)
class Encoded:
    """Rows ready for training, and what the length limit did to them.

    Attributes:
        kept: for each row, the index of its example: examples whose answer alone is too long are left out.
        cut: how many rows lost the beginning of their prompt.
        dropped: how many examples were left out.
    """

    rows: list[EncodedRow]
    kept: list[int]
    cut: int
    dropped: int

    @property
    def lengths(self) -> list[int]:
        """Tokens per row: what a mixture by tokens counts."""
        return [len(row["input_ids"]) for row in self.rows]


def encode(example: Example, tokenizer: Any, max_length: int) -> EncodedRow:
    """Token ids of prompt, answer and end of sequence; loss on the answer and the end.

    A row longer than `max_length` loses the beginning of its prompt, as in HFLM; the answer is never cut.

    Raises:
        TooLongError: answer and end leave no room for one token of the prompt.
        UserError: the tokenizer lacks an end-of-sequence token, or the chat template that the example needs.
    """
    return _encode(example, tokenizer, max_length)[0]


def encode_all(examples: Iterable[Example], tokenizer: Any, max_length: int) -> Encoded:
    """`encode` over many examples; those whose answer alone is too long are left out and counted.

    Raises:
        UserError: as `encode`, and when nothing is left.
    """
    rows, kept, cut, dropped = [], [], 0, 0
    for index, example in enumerate(examples):
        try:
            row, was_cut = _encode(example, tokenizer, max_length)
        except TooLongError:
            dropped += 1
            continue
        rows.append(row)
        kept.append(index)
        cut += was_cut
    if dropped and not rows:
        raise UserError(f"every answer is longer than the sequence length of {max_length} tokens; raise max_length")
    return Encoded(rows, kept, cut, dropped)


def split_ids(prompt: str, completion: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids of the prompt and of the completion, as HFLM would score them (`loglikelihood`)."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if prompt == "":
        answer = tokenizer.encode(completion, add_special_tokens=False)
        return ([start], answer) if answer[:1] != [start] else (answer[:1], answer[1:])
    spaces = len(prompt) - len(prompt.rstrip())
    if spaces:
        prompt, completion = prompt[:-spaces], prompt[-spaces:] + completion
    start_text = tokenizer.decode(start)
    whole = _encode_text(prompt + completion, tokenizer, start_text)
    context = _encode_text(prompt, tokenizer, start_text)
    return context, whole[len(context) :]


def _encode(example: Example, tokenizer: Any, max_length: int) -> tuple[EncodedRow, bool]:
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token, so the end of an answer cannot be learned")
    text = render(example, tokenizer)
    prompt = last_tokens(text.prompt, tokenizer, max_length)
    context, answer = split_ids(prompt, text.completion, tokenizer)
    answer = answer + _end_ids(text.closing, tokenizer)
    room = max_length - len(answer)
    if room < 1:
        raise TooLongError(
            f"an answer of {len(answer)} tokens does not fit into a sequence length of {max_length}: "
            f"{text.completion.strip()[:60]!r}"
        )
    was_cut = len(context) > room
    context = context[-room:]
    return {"input_ids": context + answer, "labels": [IGNORED] * len(context) + answer}, was_cut


def _encode_text(text: str, tokenizer: Any, start_text: str) -> list[int]:
    special = {"add_special_tokens": False} if text.startswith(start_text) else {}
    return list(tokenizer.encode(text, **special))


def _end_ids(closing: str, tokenizer: Any) -> list[int]:
    """The template's end of turn up to the end-of-sequence token, which follows where the template has none."""
    ids = list(tokenizer.encode(closing, add_special_tokens=False)) if closing else []
    eos = tokenizer.eos_token_id
    return ids[: ids.index(eos) + 1] if eos in ids else [*ids, eos]
