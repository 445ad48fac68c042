"""From an example to token ids, split between prompt and answer where evaluation splits them, by `data.border`.

A model that is scored on other tokens than it was trained on loses points that no adapter can win back. What comes
after an answer is learned too: the template's end of turn, and the end of the text; and what a template has before any
answer, such as a thought that is left empty.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict

from loraweave.data.border import continued_ids, middle_ids, opened_ids, split_ids
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
        kept: for each row, the index of its example: examples whose answer alone is too long are left out, and a text
            without a prompt may be several rows.
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

    @property
    def by_example(self) -> list[list[EncodedRow]]:
        """The rows of each example that was kept."""
        found: dict[int, list[EncodedRow]] = {}
        for index, row in zip(self.kept, self.rows, strict=True):
            found.setdefault(index, []).append(row)
        return [*found.values()]


def encode(example: Example, tokenizer: Any, max_length: int) -> EncodedRow:
    """Token ids of prompt, answer and end of sequence; loss on the answer and the end.

    A row longer than `max_length` loses the beginning of its prompt, as in HFLM; the answer is never cut. A text that
    goes on elsewhere (`Example.ends`) has no end.

    Raises:
        TooLongError: answer and end leave no room for one token of the prompt.
        UserError: the tokenizer lacks an end-of-sequence token, or the chat template that the example needs.
    """
    context, answer = _tokens(example, tokenizer, max_length)
    if len(answer) >= max_length:
        raise TooLongError(
            f"an answer of {len(answer)} tokens does not fit into a sequence length of {max_length}: "
            f"{shown(tokenizer.decode(answer).strip())}"
        )
    return _row(context, answer, max_length)[0]


def encode_all(examples: Iterable[Example], tokenizer: Any, max_length: int) -> Encoded:
    """`encode` over many examples; those whose answer alone is too long are left out and counted. A text without a
    prompt is no answer: where it is too long, it becomes several rows.

    Raises:
        TooLongError: nothing is left.
        UserError: as `encode`.
    """
    rows, kept, cut, dropped = [], [], 0, 0
    for index, example in enumerate(examples):
        context, answer = _tokens(example, tokenizer, max_length)
        if example.prompt == "" and (room := max_length - len(context)) > 0:
            parts = [answer[start : start + room] for start in range(0, len(answer), room)]
        elif len(answer) < max_length:
            parts = [answer]
        else:
            dropped += 1
            continue
        for part in parts:
            row, was_cut = _row(context, part, max_length)
            rows.append(row)
            kept.append(index)
            cut += was_cut
    if dropped and not rows:
        raise TooLongError(f"every answer is longer than the sequence length of {max_length} tokens; raise max_length")
    return Encoded(rows, kept, cut, dropped)


def _tokens(example: Example, tokenizer: Any, max_length: int) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and of what is learned, however long."""
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token, so the end of an answer cannot be learned")
    text = render(example, tokenizer)
    prompt = last_tokens(text.prompt, tokenizer, max_length)
    ending = _ending(text.closing, tokenizer)
    if text.opening:
        said = text.completion if example.by_likelihood else text.completion + ending
        context, opened, answer = opened_ids(prompt, text.opening, said, tokenizer)
        answer = opened + answer + (middle_ids(ending, tokenizer) if example.by_likelihood else [])
    elif example.by_likelihood:  # the ids that are scored, whatever follows them
        context, answer = split_ids(prompt, text.completion, tokenizer)
        answer = answer + middle_ids(ending, tokenizer)
    else:
        context, answer = continued_ids(prompt, text.completion + ending, tokenizer)
    if example.ends and answer[-1:] != [tokenizer.eos_token_id]:
        answer = [*answer, tokenizer.eos_token_id]
    return context, answer


def _row(context: list[int], answer: list[int], max_length: int) -> tuple[EncodedRow, bool]:
    """The row of a prompt and an answer that fits, and whether the prompt lost its beginning."""
    room = max_length - len(answer)
    kept = context[-room:]
    return {"input_ids": kept + answer, "labels": [IGNORED] * len(kept) + answer}, len(context) > room


def _ending(closing: str, tokenizer: Any) -> str:
    """The template's closing, up to the end-of-sequence token where it has one."""
    before, end, _ = closing.partition(tokenizer.eos_token)
    return before + end
