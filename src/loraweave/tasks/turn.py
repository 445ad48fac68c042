"""What a chat template writes around an assistant's answer: who lets a model write needs to know where a turn ends,
which may be before the end of the text, and what of the text is the answer."""

from dataclasses import dataclass
from typing import Any

from loraweave.tasks.chat import around_answer, opening_of
from loraweave.tasks.template import apply_template


@dataclass(frozen=True)
class Turn:
    """First `opening`, then the answer, then `space`, then a special token or words that end the turn.

    Attributes:
        opening: between the prompt that asks for an answer and the answer, as it is decoded: a space, or a thought that
            is left empty.
        space: belongs to the closing and not to the answer (" " before `</s>`, for some templates).
        token: the id of the special token (`<end_of_turn>`), or None.
        words: where the turn ends with text like any other (`</turn>`); else empty.
    """

    opening: str
    space: str
    token: int | None
    words: str

    def answer(self, generated: str) -> str:
        """The answer in what a model wrote, decoded without special tokens."""
        if self.words:
            generated = generated.partition(self.words)[0]
        return generated.removeprefix(self.opening).removesuffix(self.space)


def turn_of(tokenizer: Any) -> Turn:
    """A turn by the tokenizer's chat template.

    Raises:
        UserError: there is none, or it refuses a question and its answer.
    """
    question = [{"role": "user", "content": "?"}]
    prompt = apply_template(tokenizer, question, add_generation_prompt=True)
    before, closing = around_answer(question, tokenizer)
    opening = opening_of(prompt, before)
    special = special_tokens(tokenizer)
    for text in special:
        opening = opening.replace(text, "")
    found = sorted((closing.find(text), -len(text), text) for text in special if text in closing)
    if found:
        place, _, text = found[0]
        return Turn(opening, closing[:place], special[text], "")
    words = closing.strip().split("\n")[0].rstrip()
    return Turn(opening, closing[: closing.index(words)] if words else closing, None, words)


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """The texts of a tokenizer's special tokens, which are left out of what is decoded, with their ids."""
    return {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
