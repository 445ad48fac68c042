"""From chat messages to text, with the tokenizer's own template, the way lm-eval does it."""

from dataclasses import dataclass
from typing import Any

from loraweave.errors import UserError
from loraweave.tasks.examples import Example
from loraweave.tasks.template import apply_template


@dataclass(frozen=True)
class Rendered:
    """An example as text.

    Attributes:
        closing: what the template puts after an answer (`<|im_end|>` and the like); empty for plain text. It is learned
            with the answer, but it is no part of what lm-eval scores, so it is kept apart.
    """

    prompt: str
    completion: str
    closing: str = ""


def render(example: Example, tokenizer: Any) -> Rendered:
    """Turn an example into text; one whose prompt is text already comes back as it is.

    Raises:
        UserError: the tokenizer has no chat template, the template refuses the messages, or it renders the answer in
            another place than after the prompt.
    """
    if isinstance(example.prompt, str):
        if not isinstance(example.completion, str):
            raise TypeError("a completion made of messages needs a prompt made of messages")
        return Rendered(example.prompt, example.completion)
    prompt = apply_template(tokenizer, example.prompt, add_generation_prompt=not example.open_turn)
    if isinstance(example.completion, str):
        return Rendered(prompt, example.completion, _closing(example, prompt, tokenizer))
    whole = apply_template(tokenizer, example.prompt + example.completion, add_generation_prompt=None)
    if not whole.startswith(prompt):
        raise UserError(
            "the tokenizer's chat template does not render a conversation as its prompt followed by its answer, "
            f"so the answer {_short(example.completion[-1]['content'])} cannot be told apart"
        )
    answer = whole[len(prompt) :]
    last = str(example.completion[-1]["content"]).strip()
    end = answer.rfind(last)
    if end < 0:
        raise UserError(f"the tokenizer's chat template leaves out the answer {_short(last)}")
    return Rendered(prompt, answer[: end + len(last)], answer[end + len(last) :])


def _closing(example: Example, prompt: str, tokenizer: Any) -> str:
    """What the template would write after this answer, or nothing where it would write the answer differently."""
    messages = list(example.prompt)
    opened = ""
    if example.open_turn:
        opened = str(messages.pop()["content"])  # type: ignore[index]
    answer = {"role": "assistant", "content": opened + str(example.completion)}
    whole = apply_template(tokenizer, [*messages, answer], add_generation_prompt=None)  # type: ignore[list-item]
    expected = prompt + str(example.completion)
    return whole[len(expected) :] if whole.startswith(expected) else ""


def _short(text: Any) -> str:
    return repr(text if len(str(text)) <= 60 else str(text)[:57] + "...")
