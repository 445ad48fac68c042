"""A tokenizer's chat template, applied so that no message is lost: training and evaluation both come through here."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from jinja2.sandbox import SecurityError

from loraweave.errors import UserError
from loraweave.tasks.examples import Example, Message
from loraweave.tasks.sandbox import reason_of, sandbox_chat_templates

INSTRUCTING = ("system", "developer")
"""Roles of messages that say how to answer; many templates know none of them, or only the first."""

PROBE = "Qzx7 Jvw9"
"""A text that no message has: put in the place of another, it shows whether the template prints that."""

_PARTS: WeakKeyDictionary[Any, tuple[Any, bool]] = WeakKeyDictionary()
"""Of a tokenizer its template, and whether that wants texts in parts."""

FOLDED = "the chat template takes no system messages; they become a part of the user's turn: {}"
"""What people are told, with the names of the tasks."""


def apply_template(
    tokenizer: Any,
    messages: Sequence[Message],
    add_generation_prompt: bool | None,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """The template's text.

    Messages of the roles `system` and `developer` that the template refuses or leaves out become a part of the user's
    turn after them, as vendors of models without system messages recommend: they are never dropped.

    Args:
        messages: of one conversation.
        add_generation_prompt: True opens an answer, False leaves the last turn open, None renders a finished
            conversation.
        tools: JSON schemas of the functions that may be called.

    Raises:
        UserError: there is no template, it refuses the messages, or it does more than a template may.
    """
    return _fitted(tokenizer, messages, add_generation_prompt, tools)[0]


def folding_tasks(tokenizer: Any, examples: Iterable[tuple[str, Iterable[Example]]]) -> list[str]:
    """The tasks in which a message of the role `system` or `developer` becomes a part of the user's turn.

    Args:
        examples: each task's name and its examples. Conversations of one shape are looked at once.
    """
    found = []
    seen: dict[Any, bool] = {}
    for name, some in examples:
        for example in some:
            if not isinstance(example.prompt, list):
                continue
            roles = [(str(message["role"]), _is_blank(message)) for message in example.prompt]
            if not any(role in INSTRUCTING for role, _ in roles):
                continue
            shape = (*roles, bool(example.tools), example.open_turn)
            if shape not in seen:
                seen[shape] = _fitted(tokenizer, example.prompt, not example.open_turn, example.tools)[1]
            if seen[shape]:
                found.append(name)
                break
    return found


def _fitted(
    tokenizer: Any,
    messages: Sequence[Message],
    add_generation_prompt: bool | None,
    tools: list[dict[str, Any]] | None,
) -> tuple[str, bool]:
    """The template's text, and whether messages had to be folded into others for it."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"the tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__!r} has no chat "
            "template; use a chat model's tokenizer, or plain prompts (`chat_template: false`, no `messages`)"
        )
    how: dict[str, Any] = {"tokenize": False} | ({"tools": tools} if tools else {})
    if add_generation_prompt is not None:
        how |= {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
    instructing = [message for message in messages if message["role"] in INSTRUCTING]
    tries = [list(messages)]
    if any(message["role"] == "developer" for message in instructing):
        tries.append([{**m, "role": "system"} if m["role"] == "developer" else m for m in messages])
    for tried in tries if instructing else ():
        try:
            text = _rendered(tokenizer, tried, how)
            if _shows_instructions(tokenizer, tried, how, text):
                return text, False
        except TemplateError:
            continue
    try:
        return _rendered(tokenizer, folded(messages), how), not all(map(_is_blank, instructing))
    except TemplateError as error:
        raise UserError(f"the tokenizer's chat template refuses the messages: {error}") from error


def folded(messages: Sequence[Message]) -> list[Message]:
    """The messages with those of the roles `system` and `developer` put before the words of the user's turn that
    follows them; behind those of the one before, or in a turn of their own, where none follows."""
    result: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] in INSTRUCTING:
            waiting.append(str(message["content"]))
        elif message["role"] == "user":
            result.append({**message, "content": _joined([*waiting, str(message["content"])])})
            waiting = []
        else:
            result.append(message)
    if any(waiting):
        turns = [index for index, message in enumerate(result) if message["role"] == "user"]
        if turns:
            last = result[turns[-1]]
            result[turns[-1]] = {**last, "content": _joined([str(last["content"]), *waiting])}
        else:
            result.insert(0, {"role": "user", "content": _joined(waiting)})
    return result


def _is_blank(message: Message) -> bool:
    return not str(message.get("content", "")).strip()


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part.strip())


def _shows_instructions(tokenizer: Any, messages: list[Message], how: dict[str, Any], text: str) -> bool:
    """Whether every message of the roles `system` and `developer` has come into the template's text."""
    for index, message in enumerate(messages):
        if message["role"] not in INSTRUCTING or _is_blank(message):
            continue
        other = [*messages[:index], {**message, "content": PROBE}, *messages[index + 1 :]]
        if _rendered(tokenizer, other, how) == text:
            return False
    return True


def _rendered(tokenizer: Any, messages: list[Message], how: dict[str, Any]) -> str:
    """What the template gives. Calls of functions have their arguments as a mapping, or as text for a template that
    cannot print a mapping, or prints it as Python would.

    Raises:
        TemplateError: it refuses the messages.
        UserError: it does more than a template may, or fails in some other way.
    """
    calls = [call["function"] for message in messages for call in message.get("tool_calls") or ()]
    given = [call["arguments"] for call in calls if call["arguments"]]
    try:
        text = _once_rendered(tokenizer, messages, how)
        if not any(repr(arguments) in text and json.dumps(arguments) not in text for arguments in given):
            return text
    except (TemplateError, UserError) as error:
        if not calls:
            raise
        with suppress(TemplateError, UserError):
            return _once_rendered(tokenizer, [_with_text(message) for message in messages], how)
        raise error
    return _once_rendered(tokenizer, [_with_text(message) for message in messages], how)


def _with_text(message: Message) -> Message:
    """A message whose calls have their arguments as JSON."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**function, "arguments": arguments}})
    return {**message, "tool_calls": calls}


def _once_rendered(tokenizer: Any, messages: list[Message], how: dict[str, Any]) -> str:
    sandbox_chat_templates()
    try:
        given = [_in_parts(message) for message in messages] if _wants_parts(tokenizer) else messages
        return str(tokenizer.apply_chat_template(given, **how))
    except Exception as error:  # a template may fail like any other program
        if isinstance(error, TemplateError) and not isinstance(error, SecurityError):
            raise
        raise UserError(f"the tokenizer's chat template fails: {reason_of(error)}") from error


def _wants_parts(tokenizer: Any) -> bool:
    """Whether a template prints texts in a list of parts alone, as some of models that also see."""
    known = _PARTS.get(tokenizer)
    if known is None or known[0] != tokenizer.chat_template:
        said = {"role": "user", "content": PROBE}
        wants = not _prints(tokenizer, said) and _prints(tokenizer, _in_parts(said))
        known = _PARTS[tokenizer] = tokenizer.chat_template, wants
    return known[1]


def _prints(tokenizer: Any, message: Message) -> bool:
    try:
        return PROBE in str(tokenizer.apply_chat_template([message], tokenize=False))
    except Exception:  # as it may fail
        return False


def _in_parts(message: Message) -> Message:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
