"""Other forms of conversations as chat messages: ShareGPT's `from` and `value`, and Alpaca's columns with a history."""

import json
from collections.abc import Iterable
from typing import Any

from loraweave.errors import UserError, nearest
from loraweave.tasks.formats import check_texts
from loraweave.tasks.messages import listed
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


def sharegpt(row: Values, place: str, key: str) -> Values:
    """A row with `messages` in the place of its conversation and its `system`.

    Args:
        row: as it stands in the file.
        place: of the row, for messages.
        key: under which the conversation is.

    Raises:
        UserError: a turn without `from` or `value`, an unknown speaker, a call that is no JSON.
    """
    given = listed(row.get(key), f"{place}: {key!r}")
    if not isinstance(given, list) or not given:
        raise UserError(f"{place}: {key!r} must be a list of turns, each with 'from' and 'value'")
    messages = [_message(turn, f"{place}, turn {number} of {key!r}") for number, turn in enumerate(given, start=1)]
    return _with(row, (key, "system"), [*_system(row), *messages])


def alpaca(row: Values, place: str, answer: str, context: str | None) -> Values:
    """A row with `messages` in the place of `system`, `history` (pairs of a question and its answer), `instruction`,
    what that leans on, and the answer, which may be missing.

    Args:
        row: as it stands in the file.
        place: of the row, for messages.
        answer, context: their columns.

    Raises:
        UserError: a column holds no text, there is no instruction, or the history is no list of pairs.
    """
    history = listed(row.get("history") or [], f"{place}: 'history'")
    pairs = isinstance(history, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in history)
    if not pairs or not all(isinstance(part, str) for pair in history for part in pair):
        raise UserError(f"{place}: 'history' must be a list of pairs, a question and its answer each")
    check_texts(row, [name for name in ("system", "instruction", context, answer) if name], place)
    asked = [row.get("instruction"), row.get(context) if context else None]
    if asked[0] is None:
        raise UserError(f"{place}: lacks the field 'instruction'")
    turns = [part for pair in history for part in pair]
    turns.append("\n\n".join(str(part) for part in asked if part not in (None, "")))
    if row.get(answer) is not None:
        turns.append(str(row[answer]))
    messages = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(turns)]
    return _with(row, ("system", "history", "instruction", answer, context), [*_system(row), *messages])


def _system(row: Values) -> list[dict[str, Any]]:
    return [{"role": "system", "content": row["system"]}] if row.get("system") else []


def _with(row: Values, instead_of: Iterable[str | None], messages: list[Any]) -> Values:
    gone = set(instead_of)
    return {name: value for name, value in row.items() if name not in gone} | {"messages": messages}


def _message(turn: Any, place: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise UserError(f"{place}: a turn with 'from' and 'value' is wanted, not {type(turn).__name__}")
    speaker, value = turn.get("from"), turn.get("value")
    if not isinstance(speaker, str) or speaker not in ROLES:
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
