"""Thoughts before an answer, between tags: chat templates open one in the prompt, leave one empty, or cut them off.

Where the prompt opens a thought, a model that is given the prompt has to end it before it answers. So that is learned:
the thought that a row has, or an empty one, as models that can do without are rendered with `enable_thinking=False`.
"""

import re
from collections.abc import Iterable

from loraweave.tasks.examples import Example, Message
from loraweave.tasks.messages import REASONING

_TAGS = "think|thinking|thought|reasoning"
_OPENED = re.compile(rf"<({_TAGS})>\s*\Z")
_EMPTY = re.compile(rf"<({_TAGS})>\s*</\1>\s*\Z")
_WRITTEN = re.compile(rf"\s*(?:<(?:{_TAGS})>)?(.*?)</(?:{_TAGS})>\s*", re.DOTALL)
_END = re.compile(rf"</(?:{_TAGS})>")


def before_thought(prompt: str) -> str:
    """A prompt without the thought that it opens at its end; as it stands where it opens none."""
    return _OPENED.sub("", prompt)


def opens_thought(prompt: str) -> bool:
    """Whether a prompt ends with a thought that is open."""
    return before_thought(prompt) != prompt


def ends_with_no_thought(prompt: str) -> bool:
    """Whether a prompt ends with a thought that is empty and over."""
    return _EMPTY.search(prompt) is not None


def ended(prompt: str, thought: str = "") -> str:
    """What goes on a prompt that opens a thought, up to where the answer begins."""
    tag = _OPENED.search(prompt)
    if tag is None:
        raise ValueError("the prompt opens no thought")
    return f"{'' if prompt.endswith(chr(10)) else chr(10)}{thought.strip(chr(10))}\n</{tag[1]}>\n\n"


def first_thought(text: str) -> tuple[str, str]:
    """The thought that a text begins with, and what is left of the text; no thought where there is none, and the text
    as it stands. The tag that opens the thought may be missing, as in what was written after a prompt that has it."""
    found = _WRITTEN.match(text)
    return (found[1].strip("\n"), text[found.end() :]) if found else ("", text)


def thought_of(message: Message) -> str:
    """What an answer's keys say that was thought before it."""
    return next((str(message[key]) for key in REASONING if message.get(key)), "")


def parted(message: Message) -> Message:
    """An answer with the thought that its words begin with under a key of its own."""
    thought, rest = first_thought(message["content"])
    if rest == message["content"] or thought_of(message):
        return message
    return {**message, "content": rest, REASONING[0]: thought}


def have_thoughts(examples: Iterable[Example]) -> bool:
    """Whether a thought is learned with any of the answers."""
    turns = (turn for each in examples if isinstance(each.completion, list) for turn in each.completion)
    return any(thought_of(turn) or _END.search(turn["content"]) for turn in turns)


def end_of_thought(opening: str) -> str | None:
    """The tag that ends a thought, in what a template writes before an answer; None where it has none."""
    found = _END.search(opening)
    return found[0] if found else None
