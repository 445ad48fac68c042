"""Checks that a chat template prints all of a conversation that matters: calls of functions are easily left out."""

from typing import Any

from loraweave.errors import UserError
from loraweave.tasks.examples import Example, Message
from loraweave.tasks.messages import REASONING
from loraweave.tasks.template import PROBE, apply_template
from loraweave.tasks.thoughts import opens_thought

_PROBE_WORD = PROBE.replace(" ", "")


class _Marks:
    """Words that stand in the place of others, to be looked for in what the template prints.

    Attributes:
        what: what each word stands for, in words for people.
        thoughts: of these, what the assistant thinks.
    """

    def __init__(self) -> None:
        self.what: dict[str, str] = {}
        self.thoughts: set[str] = set()

    def new(self, what: str) -> str:
        """A word that nothing else holds; `what` it stands for, in words for people."""
        word = f"{_PROBE_WORD}x{len(self.what)}x"
        self.what[word] = what
        return word


def check_shown(example: Example, tokenizer: Any) -> None:
    """Refuse a conversation of which the template would leave something out: functions and calls of them, what they
    gave back, words beside a call, and what the assistant thinks before the answer that is learned.

    What the assistant thought before an earlier answer may go: many templates drop it by design, here as later in use.
    So may what it thinks before this one, where the prompt opens a thought: it is written there (`tasks.chat`).

    Raises:
        UserError: naming the keys that the template does not print, and the messages.
    """
    if not isinstance(example.prompt, list):
        return
    messages = [*example.prompt, *(example.completion if isinstance(example.completion, list) else ())]
    marks = _Marks()
    marked = [
        _marked(message, marks, f"message {number}", learned=number > len(example.prompt))
        for number, message in enumerate(messages, start=1)
    ]
    tools = example.tools and [_marked_tool(tool, marks) for tool in example.tools]
    if not marks.what:
        return
    try:
        text = apply_template(tokenizer, marked, None if len(messages) > len(example.prompt) else True, tools)
    except UserError as error:
        raise UserError(f"{error} (a conversation with {', '.join(dict.fromkeys(marks.what.values()))})") from error
    text = text.lower()  # a template may write roles or words in capitals
    lost = dict.fromkeys(what for word, what in marks.what.items() if word.lower() not in text)
    thoughts = [what for what in lost if what in marks.thoughts]
    if thoughts and opens_thought(apply_template(tokenizer, example.prompt, True, example.tools)):
        lost = dict.fromkeys(what for what in lost if what not in marks.thoughts)
    if lost:
        raise UserError(f"the tokenizer's chat template does not print {', '.join(lost)}")


def _marked(message: Message, marks: _Marks, where: str, learned: bool) -> Message:
    result = dict(message)
    if message.get("tool_calls"):
        what = f"'tool_calls' ({where})"
        result["tool_calls"] = [_marked_call(call, marks, what) for call in message["tool_calls"]]
    spoken = message["role"] == "tool" or (message["role"] == "assistant" and message.get("tool_calls"))
    if spoken and message["content"].strip():
        result["content"] = marks.new(f"'content' ({where}, of the role {message['role']!r})")
    for key in REASONING if learned else ():
        if message.get(key):
            marks.thoughts.add(what := f"{key!r} ({where})")
            result[key] = marks.new(what)
    return result


def _marked_call(call: dict[str, Any], marks: _Marks, what: str) -> dict[str, Any]:
    function = call["function"]
    arguments = {key: marks.new(what) for key in function["arguments"]}
    return {**call, "function": {**function, "name": marks.new(what), "arguments": arguments}}


def _marked_tool(tool: dict[str, Any], marks: _Marks) -> dict[str, Any]:
    return {**tool, "function": {**tool["function"], "name": marks.new("'tools'")}}
