"""From an example to token ids, split between prompt and answer where evaluation splits them, by `data.border`.

A model that is scored on other tokens than it was trained on loses points that no adapter can win back. What comes
after an answer is learned too: the template's end of turn, and the end of the text.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict

from loraweave.data.border import continued_ids, middle_ids, split_ids
from loraweave.data.tail import last_tokens
from loraweave.errors import UserError, shown
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


def _encode(example: Example, tokenizer: Any, max_length: int) -> tuple[EncodedRow, bool]:
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token, so the end of an answer cannot be learned")
    text = render(example, tokenizer)
    prompt = last_tokens(text.prompt, tokenizer, max_length)
    ending = _ending(text.closing, tokenizer)
    if example.by_likelihood:  # the ids that are scored, whatever follows them
        context, answer = split_ids(prompt, text.completion, tokenizer)
        answer = answer + middle_ids(ending, tokenizer)
    else:
        context, answer = continued_ids(prompt, text.completion + ending, tokenizer)
    if answer[-1:] != [tokenizer.eos_token_id]:
        answer = [*answer, tokenizer.eos_token_id]
    room = max_length - len(answer)
    if room < 1:
        raise TooLongError(
            f"an answer of {len(answer)} tokens does not fit into a sequence length of {max_length}: "
            f"{shown(text.completion.strip())}"
        )
    was_cut = len(context) > room
    context = context[-room:]
    return {"input_ids": context + answer, "labels": [IGNORED] * len(context) + answer}, was_cut


def _ending(closing: str, tokenizer: Any) -> str:
    """The template's closing, up to the end-of-sequence token where it has one."""
    before, end, _ = closing.partition(tokenizer.eos_token)
    return before + end
