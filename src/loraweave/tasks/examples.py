"""One thing to learn: a prompt and what should follow it, as text or as chat messages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
"""A chat message: `role`, `content` and whatever else the tokenizer's template reads."""

Prompt = str | Sequence[Message]
"""Text to go on from, or messages of a chat to answer."""


@dataclass(frozen=True)
class Example:
    """What the model reads and what it should answer; only the answer carries loss.

    Attributes:
        prompt: plain text, or a list of messages that the tokenizer's chat template turns into text.
        completion: text that follows the prompt exactly as it stands (with its leading space, if it has one), or a list
            of messages when the template has to render the answer too. A list only ever follows a list.
        open_turn: the last message of `prompt` is the beginning of the answer, so the template must leave that turn
            open.
        by_likelihood: evaluation measures how likely the completion is and does not let the model write it: then white
            space at the end of the prompt belongs to the completion, as in lm-eval. Examples that say the same are
            equal whichever it is.
        tools: JSON schemas of the functions that may be called in messages; the template prints them.
        ends: the text ends with the completion, and that is learned too; else it is a piece of a longer one.
        place: where it comes from, for people: a file and a line. No part of what it says.
    """

    prompt: str | list[Message]
    completion: str | list[Message]
    open_turn: bool = False
    by_likelihood: bool = field(default=False, compare=False)
    tools: list[dict[str, Any]] | None = None
    ends: bool = True
    place: str = field(default="", compare=False, repr=False)
