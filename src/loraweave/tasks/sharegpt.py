"""ShareGPT's conversations as chat messages: `from` and `value`, with `system` and `tools` beside them."""

import json
from typing import Any

from loraweave.errors import UserError, nearest
from loraweave.tasks.rows import Values

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function": "tool",
}
"""Who speaks, and that role in a chat. `function_call` is the assistant calling, `observation` what came back."""


def as_messages(row: Values, key: str, place: str) -> Values:
    """A row with `messages` in the place of its conversation and its `system`.

    Args:
        row: as it stands in the file.
        key: under which the conversation is.
        place: of the row, for messages.

    Raises:
        UserError: a turn without `from` or `value`, an unknown speaker, a call that is no JSON.
    """
    given = row.get(key)
    if not isinstance(given, list) or not given:
        raise UserError(f"{place}: {key!r} must be a list of turns, each with 'from' and 'value'")
    messages = [_message(turn, f"{place}, turn {number} of {key!r}") for number, turn in enumerate(given, start=1)]
    system = row.get("system")
    if system:
        if not isinstance(system, str):
            raise UserError(f"{place}: 'system' must be text")
        messages.insert(0, {"role": "system", "content": system})
    return {name: value for name, value in row.items() if name not in (key, "system")} | {"messages": messages}


def _message(turn: Any, place: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise UserError(f"{place}: a turn with 'from' and 'value' is wanted, not {type(turn).__name__}")
    speaker, value = turn.get("from"), turn.get("value")
    if speaker not in ROLES:
        said = f"'from' is {speaker!r}, which is unknown" if speaker is not None else "lacks 'from'"
        raise UserError(f"{place}: {said}; it is one of {', '.join(ROLES)}{nearest(str(speaker or ''), ROLES)}")
    if not isinstance(value, (str, list)):
        raise UserError(f"{place}: {'lacks' if value is None else 'has no text as'} 'value'")
    rest = {name: part for name, part in turn.items() if name not in ("from", "value") and part is not None}
    if speaker == "function_call":
        return {**rest, "role": "assistant", "content": "", "tool_calls": _calls(value, place)}
    return {**rest, "role": ROLES[speaker], "content": value}


def _calls(value: Any, place: str) -> list[Any]:
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise UserError(f"{place}: the value of a function_call must be JSON: name and arguments") from None
    return calls if isinstance(calls, list) else [calls]
