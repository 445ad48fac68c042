"""Where an assistant's turn ends, which may be before the end of the text: who lets a model write stops there."""

from dataclasses import dataclass
from typing import Any

from loraweave.tasks.chat import closing_after


@dataclass(frozen=True)
class TurnEnd:
    """What a chat template writes after an answer: first `space`, then a special token or words that end the turn.

    Attributes:
        space: belongs to the closing and not to the answer (" " before `</s>`, for some templates).
        token: the id of the special token (`<end_of_turn>`), or None.
        words: where the turn ends with text like any other (`</turn>`); else empty.
    """

    space: str
    token: int | None
    words: str

    def answer(self, generated: str) -> str:
        """The answer in what a model wrote, decoded without special tokens."""
        if self.words:
            generated = generated.partition(self.words)[0]
        return generated.removesuffix(self.space)


def turn_end(tokenizer: Any) -> TurnEnd:
    """The end of a turn by the tokenizer's chat template.

    Raises:
        UserError: there is none, or it refuses a question and its answer.
    """
    closing = closing_after([{"role": "user", "content": "?"}], tokenizer)
    special = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    found = sorted((closing.find(text), -len(text), text) for text in special if text in closing)
    if found:
        place, _, text = found[0]
        return TurnEnd(closing[:place], special[text], "")
    words = closing.strip().split("\n")[0].rstrip()
    return TurnEnd(closing[: closing.index(words)] if words else closing, None, words)
