"""From chat messages to text, with the tokenizer's own template, the way lm-eval does it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from loraweave.errors import UserError, shown
from loraweave.tasks.examples import Example, Message
from loraweave.tasks.shown import check_shown
from loraweave.tasks.template import INSTRUCTING, PROBE, apply_template
from loraweave.tasks.thoughts import (
    before_thought,
    end_of_thought,
    ended,
    ends_with_no_thought,
    first_thought,
    opens_thought,
    parted,
    thought_of,
)

Tools = list[dict[str, Any]] | None
"""JSON schemas of functions that may be called."""


@dataclass(frozen=True)
class Rendered:
    """An example as text.

    Attributes:
        closing: what the template puts after an answer (`<|im_end|>` and the like); empty for plain text. It is learned
            with the answer, but it is no part of what lm-eval scores, so it is kept apart.
        opening: what the template puts between a prompt and any answer, such as a thought that is left empty. It is
            learned, and an evaluation gives it; white space alone belongs to the completion.
    """

    prompt: str
    completion: str
    closing: str = ""
    opening: str = ""


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


def asked(
    tokenizer: Any, messages: Sequence[Message], add_generation_prompt: bool = True, tools: Tools = None
) -> tuple[str, str]:
    """A chat as a model is given it to answer, and what the template has between that and any answer (`opening` of
    `Rendered`).

    Args:
        messages: of the chat; without `add_generation_prompt` the last is the beginning of the answer.
        tools: the functions that may be called.

    Raises:
        UserError: as `render`.
    """
    return _asked(tokenizer, messages, add_generation_prompt, tools)[:2]


def _asked(
    tokenizer: Any, messages: Sequence[Message], add_generation_prompt: bool, tools: Tools
) -> tuple[str, str, str]:
    """`asked`, and what closes an answer."""
    prompt = apply_template(tokenizer, messages, add_generation_prompt, tools)
    if add_generation_prompt:
        before, closing = around_answer(messages, tokenizer, tools=tools)
        opening = opening_of(prompt, before)
        return prompt, opening if opening.strip() else "", closing
    *rest, begun = messages
    unanswered = apply_template(tokenizer, rest, True, tools)
    if opens_thought(unanswered) and not prompt.startswith(unanswered):  # the answer would begin within the thought
        prompt = unanswered + ended(unanswered) + str(begun["content"])
    return prompt, "", around_answer(rest, tokenizer, str(begun["content"]), tools)[1]


def opening_of(prompt: str, before: str) -> str:
    """What stands between a prompt and any answer.

    Args:
        before: what the template writes before an answer to that, as `around_answer` has it.
    """
    if before.startswith(prompt):
        return before[len(prompt) :]
    return ended(prompt) if opens_thought(prompt) else ""


def around_answer(
    messages: Sequence[Message], tokenizer: Any, opened: str = "", tools: Tools = None
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


def _render(example: Example, tokenizer: Any) -> Rendered:
    if isinstance(example.completion, list):
        if isinstance(example.prompt, str):
            raise TypeError("a completion made of messages needs a prompt made of messages")
        return _rendered_turn(example.prompt, example.completion, tokenizer, example.tools)
    if isinstance(example.prompt, str):
        return Rendered(example.prompt, example.completion)
    prompt, opening, closing = _asked(tokenizer, example.prompt, not example.open_turn, example.tools)
    return Rendered(prompt, example.completion, closing, opening)


def _rendered_turn(messages: list[Message], answer: list[Message], tokenizer: Any, tools: Tools) -> Rendered:
    """A prompt and the turn that answers it, as the template writes it."""
    prompt = apply_template(tokenizer, messages, True, tools)
    forms = [[*answer[:-1], turn] for turn in (answer[-1], parted(answer[-1]))]
    written, turn = _written(prompt, messages, forms, tokenizer, tools)
    before, closing = around_answer([*messages, *answer[:-1]], tokenizer, tools=tools)
    opening = opening_of(prompt, before)
    if (
        end_of_thought(opening) and turn is not forms[1][-1]
    ):  # else an empty thought would stand before the answer's own
        written, turn = _written(prompt, messages, forms[1:], tokenizer, tools)
    thought, said = thought_of(turn).strip(), turn["content"].strip()
    given = prompt[len(before_thought(prompt)) :]
    if written.startswith(given):
        text = written[len(given) :]
    else:  # the template leaves out the thought that its prompt has begun
        own, text = first_thought(written)
        text = ended(prompt, own) + text
    if turn is not answer[-1]:
        check_shown(Example(messages, [*answer[:-1], turn], tools=tools), tokenizer)
    if opens_thought(prompt) and not text.lstrip().startswith(thought):
        text = ended(prompt, thought) + text.removeprefix(opening)
    opening = opening if opening.strip() and text.startswith(opening) else ""
    text = text[len(opening) :]
    if turn.get("tool_calls") and not text.endswith(closing):  # such a turn may end in its own way
        return Rendered(prompt, text, "", opening)
    if not text.endswith(closing) or said not in written.removesuffix(closing):
        raise UserError(f"the tokenizer's chat template closes the answer {shown(said)} in another way than others")
    return Rendered(prompt, text.removesuffix(closing), closing, opening)


def _written(
    prompt: str, messages: list[Message], forms: list[list[Message]], tokenizer: Any, tools: Tools
) -> tuple[str, Message]:
    """What the template writes behind a prompt, without the thought that the prompt opens, to answer it in the first of
    some forms that it can write; and the turn in that form."""
    for turns in forms:
        turn = turns[-1]
        start, whole = before_thought(prompt), apply_template(tokenizer, [*messages, *turns], None, tools)
        rest = [message for message in messages if message["role"] not in INSTRUCTING]
        if not whole.startswith(start) and 0 < len(rest) < len(messages):
            # Some write a system message into the user's last turn, and only while that waits for its answer.
            start = before_thought(apply_template(tokenizer, rest, True, tools))
            whole = apply_template(tokenizer, [*rest, *turns], None, tools)
        if not whole.startswith(start):
            if ends_with_no_thought(prompt) and (thought_of(turn) or parted(turn) is not turn):
                raise UserError(
                    "the tokenizer's chat template ends its prompts with an empty thought, and the answer "
                    f"{shown(turn['content'])} has one of its own: leave that out, or save the base with a template "
                    "that opens one"
                )
            raise UserError(
                "the tokenizer's chat template does not render a conversation as its prompt followed by its answer, "
                f"so the answer {shown(turn['content'])} cannot be told apart: {_parting(start, whole)}; save the base "
                "with a chat template whose prompt for an answer ends where its answers begin"
            )
        if turn["content"].strip() in (written := whole[len(start) :]):
            return written, turn
    raise UserError(f"the tokenizer's chat template leaves out the answer {shown(turn['content'].strip())}")


def _parting(prompt: str, whole: str) -> str:
    """Where the two go different ways."""
    pairs = enumerate(zip_longest(prompt, whole))
    same = next(index for index, (one, other) in pairs if one != other)
    return f"the prompt has {shown(prompt[same:])} where the whole has {shown(whole[same:])}"
