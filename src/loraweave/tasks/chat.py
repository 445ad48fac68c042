"""From chat messages to text, with the tokenizer's own template, the way lm-eval does it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from loraweave.errors import UserError, shown
from loraweave.tasks.examples import Example, Message
from loraweave.tasks.shown import check_shown
from loraweave.tasks.template import PROBE, apply_template


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
        UserError: the tokenizer has no chat template, the template refuses the messages or leaves some of them out, or
            it renders the answer in another place than after the prompt; with the example's place.
    """
    try:
        check_shown(example, tokenizer)
        return _render(example, tokenizer)
    except UserError as error:
        raise UserError(f"{example.place}: {error}" if example.place else str(error)) from error


def _render(example: Example, tokenizer: Any) -> Rendered:
    if isinstance(example.prompt, str):
        if not isinstance(example.completion, str):
            raise TypeError("a completion made of messages needs a prompt made of messages")
        return Rendered(example.prompt, example.completion)
    prompt = apply_template(tokenizer, example.prompt, not example.open_turn, example.tools)
    if isinstance(example.completion, str):
        return Rendered(prompt, example.completion, _closing(example, tokenizer))
    whole = apply_template(tokenizer, example.prompt + example.completion, None, example.tools)
    if not whole.startswith(prompt):
        raise UserError(
            "the tokenizer's chat template does not render a conversation as its prompt followed by its answer, "
            f"so the answer {shown(example.completion[-1]['content'])} cannot be told apart: {_parting(prompt, whole)}"
        )
    answer = whole[len(prompt) :]
    said = str(example.completion[-1]["content"]).strip()
    if said not in answer:
        raise UserError(f"the tokenizer's chat template leaves out the answer {shown(said)}")
    _, closing = around_answer([*example.prompt, *example.completion[:-1]], tokenizer, tools=example.tools)
    if example.completion[-1].get("tool_calls") and not answer.endswith(closing):  # such a turn may end in its own way
        return Rendered(prompt, answer)
    if not answer.endswith(closing) or said not in (text := answer.removesuffix(closing)):
        raise UserError(f"the tokenizer's chat template closes the answer {shown(said)} in another way than others")
    return Rendered(prompt, text, closing)


def around_answer(
    messages: Sequence[Message], tokenizer: Any, opened: str = "", tools: list[dict[str, Any]] | None = None
) -> tuple[str, str]:
    """What the template writes before an answer to these messages and what closes it, whatever the answer says.

    Args:
        messages: of a conversation, without the answer.
        opened: words that every answer begins with.
        tools: the functions that it may call.

    Raises:
        UserError: as `render`, or the template leaves out what an assistant says.
    """
    answered = [*messages, {"role": "assistant", "content": opened + PROBE}]
    before, found, closing = apply_template(tokenizer, answered, None, tools).rpartition(PROBE)
    if not found:
        raise UserError("the tokenizer's chat template leaves out what an assistant says")
    return before, closing


def _closing(example: Example, tokenizer: Any) -> str:
    messages: list[Message] = list(example.prompt)  # type: ignore[arg-type]
    opened = str(messages.pop()["content"]) if example.open_turn else ""
    return around_answer(messages, tokenizer, opened)[1]


def _parting(prompt: str, whole: str) -> str:
    """Where the two go different ways, such as at a thought that the prompt opens and the answer does not have."""
    pairs = enumerate(zip_longest(prompt, whole))
    same = next(index for index, (one, other) in pairs if one != other)
    return f"the prompt has {shown(prompt[same:])} where the whole has {shown(whole[same:])}"
