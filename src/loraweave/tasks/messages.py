"""Reads the chat messages of a row: what they may hold, what of it is learned, and one form for a template to render.

Keys that say something about what is learned are honoured or refused, never passed over. Others, such as an `id`, are
handed to the template, which may print them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loraweave.errors import UserError, nearest, shown
from loraweave.tasks.examples import Message

ROLES = ("system", "developer", "user", "assistant", "tool")
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys for what a model says to itself before it answers; a template prints it, or does not."""

RATINGS = ("label", "kto_tag")
"""Columns in which an answer may be rated good or bad."""

_REFUSED = {
    "function_call": "write it as 'tool_calls', a list of {type: function, function: {name, arguments}}",
    "images": "a task is text",
    "image": "a task is text",
    "audio": "a task is text",
    "videos": "a task is text",
    "refusal": "write what the assistant should say as its 'content'",
    "prefix": "write what is given of an answer into the user's message",
    "loss": "write 'weight', 0 or 1, for whether a turn is learned",
    "training": "write 'weight', 0 or 1, for whether a turn is learned",
    "train_detail": "write 'weight', 0 or 1, for whether a turn is learned",
}
_ROW_REFUSED = {
    "images": "a task is text and chat messages",
    "image": "a task is text and chat messages",
    "audio": "a task is text and chat messages",
    "videos": "a task is text and chat messages",
    "chosen": "pairs of answers are for DPO, and here an answer is learned",
    "rejected": "pairs of answers are for DPO, and here an answer is learned",
    "system": "write it as a message of the role 'system', or into a prompt: of your own",
    "system_prompt": "write it as a message of the role 'system', or into a prompt: of your own",
    "history": "write the conversation as 'messages', or into a prompt: of your own",
    "functions": "write them as 'tools', a list of {type: function, function: {name, description, parameters}}",
    "chat_template_kwargs": "evaluation would not know it: set what it says in the base's own chat template",
    "documents": "write them into a message",
}


def read_messages(value: Any, key: str, place: str, filled: bool = False) -> list[Message]:
    """The messages of a row, each with a known role and text as its content.

    Args:
        value: what the row has under `key`.
        place: of the row, for messages.
        filled: the file format gives all rows the same fields, so that what is null in one was never written.

    Raises:
        UserError: naming the message and the key of it that is unknown, unfit or not supported.
    """
    if not isinstance(value, list) or not value:
        raise UserError(f"{place}: {key!r} must be a list of messages, each with 'role' and 'content'")
    return [_message(one, f"{place}, message {n} of {key!r}", filled) for n, one in enumerate(value, start=1)]


def read_tools(row: Mapping[str, Any], place: str, filled: bool = False) -> list[dict[str, Any]] | None:
    """The functions that the model may call in a conversation: the row's `tools`, as JSON schemas in a list, or that
    list written as text; None where there are none.

    Raises:
        UserError: `tools` is something else.
    """
    tools = from_text(row.get("tools") or None, f"{place}: 'tools'")
    if not tools:
        return None
    if not isinstance(tools, list):
        raise UserError(f"{place}: 'tools' must be a list of functions, not {type(tools).__name__}")
    tools = _without_nulls(tools) if filled else tools
    for number, tool in enumerate(tools, start=1):
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise UserError(
                f"{place}: entry {number} of 'tools' is no function: "
                "{type: function, function: {name, description, parameters}} is wanted"
            )
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]


def check_row(row: Mapping[str, Any], place: str) -> None:
    """Refuse keys of a row that say how it is to be learned, and that nothing here follows.

    Raises:
        UserError: naming the key, and what to do instead.
    """
    for key, value in row.items():  # capitals do not count in names of columns
        instead = _ROW_REFUSED.get(key.lower())
        if instead is None or not value or value == "[]":
            continue
        if key.lower() != "system_prompt" or not _has_system(row):
            raise UserError(f"{place}: {key!r} is not supported: {instead}")
    if "completion" in row and isinstance(row.get("label"), bool):
        raise UserError(f"{place}: 'label' is {row['label']}: rated answers are for KTO, and here an answer is learned")
    weight = row.get("weight", 1)
    if row.get("train") is False or (isinstance(weight, (int, float)) and weight != 1):
        key = "train" if row.get("train") is False else "weight"
        raise UserError(f"{place}: {key!r} is {row[key]!r}, and a row has none here: leave the row out")


def _has_system(row: Mapping[str, Any]) -> bool:
    """Whether a conversation of the row begins with a message of the role `system`: it holds the prompt, then."""
    starts = (value[0] for value in row.values() if isinstance(value, list) and value)
    return any(isinstance(start, dict) and start.get("role") == "system" for start in starts)


def check_unrated(values: Iterable[Any], what: str) -> None:
    """Raise UserError where the values of a column (`what`, with its place) rate answers good or bad, in true and false
    or 0 and 1: a bad one would be learned like any other."""
    found = {str(value).strip().lower() for value in values if value is not None} - {""}
    if {"false"} <= found <= {"true", "false"} or found in ({"0", "1"}, {"0.0", "1.0"}):
        raise UserError(
            f"{what} rates the answers: rated answers are for KTO, and here every answer is learned; keep the good "
            "ones without that column, or to learn the rating write prompt:, completion: and choices:"
        )


def is_learned(message: Message) -> bool:
    """Whether a turn of the assistant is learned: not where its `weight` is 0 or its `train` is false."""
    return message.get("weight", 1) != 0 and message.get("train", True) is not False


def to_answer(messages: Sequence[Message]) -> list[Message]:
    """Messages without the answers at their end, which are what is asked for."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    return list(messages[:end])


def listed(value: Any, what: str) -> Any:
    """A list that may be written as JSON inside a text, as tables have it in a cell; arguments and errors as of
    `from_text`. Any other text stays one."""
    return from_text(value, what) if isinstance(value, str) and value.lstrip().startswith("[") else value


def from_text(value: Any, what: str) -> Any:
    """A value that may be written as JSON inside a text.

    Raises:
        UserError: it is text and no JSON; `what` it is, with its place.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise UserError(f"{what} is text that is not JSON: {shown(value)}") from None


def says_something(message: Message) -> bool:
    """Whether there is anything to learn in a turn of the assistant: an answer, or calls of functions."""
    return bool(message["content"].strip() or message.get("tool_calls"))


def _message(value: Any, place: str, filled: bool) -> Message:
    if not isinstance(value, dict):
        raise UserError(f"{place}: a message with 'role' and 'content' is wanted, not {type(value).__name__}")
    message = {name: part for name, part in value.items() if part is not None}  # as Parquet fills gaps
    role = message.get("role")
    if role not in ROLES:
        said = f"the role {role!r} is unknown" if "role" in message else "lacks a 'role'"
        raise UserError(f"{place}: {said}; roles are {', '.join(ROLES)}{nearest(str(role or ''), ROLES)}")
    for key, instead in _REFUSED.items():
        if message.get(key, "") not in ("", [], {}):  # `loss: false` says something
            raise UserError(f"{place}: {key!r} is not supported: {instead}")
    _check_weight(message, place)
    for key in ("tool_calls", *REASONING):
        if not message.get(key):
            message.pop(key, None)
        elif role != "assistant":
            raise UserError(f"{place}: {key!r} belongs to the assistant, not to the role {role!r}")
    for key in REASONING:
        if not isinstance(message.get(key, ""), str):
            raise UserError(f"{place}: {key!r} must be text")
    if "tool_calls" in message:
        message["tool_calls"] = _calls(message["tool_calls"], place, filled)
        message.setdefault("content", "")
    message["content"] = _text(message.get("content"), place)
    return message


def _check_weight(message: Message, place: str) -> None:
    """`weight` is OpenAI's key, `train` that of other trainers; neither can make a turn of somebody else learned."""
    weight, train = message.get("weight", 1), message.get("train", True)
    if isinstance(weight, bool) or weight not in (0, 1):
        raise UserError(f"{place}: 'weight' must be 0 or 1, not {weight!r}")
    if not isinstance(train, bool):
        raise UserError(f"{place}: 'train' must be true or false, not {train!r}")
    if {"weight", "train"} <= set(message) and bool(weight) is not train:
        raise UserError(
            f"{place}: 'weight' is {weight} and 'train' is {str(train).lower()}: they contradict each other"
        )
    if message["role"] != "assistant" and (message.get("weight") == 1 or message.get("train")):
        key = "weight" if message.get("weight") == 1 else "train"
        raise UserError(
            f"{place}: {key!r} asks to learn a turn of the role {message['role']!r}; the assistant's alone are learned"
        )


def _text(content: Any, place: str) -> str:
    """Content as text; parts that are text are lines of it, as servers have it that read such requests."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise UserError(f"{place}: 'content' must be text")
    parts = []
    for number, part in enumerate(content, start=1):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise UserError(f"{place}: part {number} of 'content' is of the type {kind!r}; a task is text")
        parts.append(part["text"])
    return "\n".join(parts)


def _calls(calls: Any, place: str, filled: bool) -> list[dict[str, Any]]:
    """Calls of functions with their arguments as a mapping, which is what templates take."""
    calls = from_text(calls, f"{place}: 'tool_calls'")
    if not isinstance(calls, list):
        raise UserError(f"{place}: 'tool_calls' must be a list, not {type(calls).__name__}")
    read = []
    for number, call in enumerate(calls, start=1):
        which = f"{place}: call {number} of 'tool_calls'"
        call = _without_nulls(call) if filled else call
        inner = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
            raise UserError(f"{which} names no function: {{type: function, function: {{name, arguments}}}} is wanted")
        arguments = from_text(inner.get("arguments") or {}, f"{which}: 'arguments'")
        if not isinstance(arguments, dict):
            raise UserError(f"{which}: 'arguments' must be a mapping, not {type(arguments).__name__}")
        around = {key: part for key, part in call.items() if key not in ("function", "name", "arguments")}
        read.append({"type": "function", **around, "function": {**inner, "arguments": arguments}})
    return read


def without_filling(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a format that gives all rows the same fields, with its functions and calls as they were written."""

    def message(value: Any) -> Any:
        calls = value.get("tool_calls") if isinstance(value, dict) else None
        return {**value, "tool_calls": _without_nulls(calls)} if calls else value

    read = {key: [*map(message, value)] if isinstance(value, list) else value for key, value in values.items()}
    return {**read, "tools": _without_nulls(read["tools"])} if "tools" in read else read


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
