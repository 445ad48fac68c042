"""What a row of each format says: messages, a prompt and its completion, or plain text, as examples to learn."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from loraweave.errors import UserError, nearest
from loraweave.tasks.examples import Example, Message
from loraweave.tasks.fields import check_document, rendered, with_row
from loraweave.tasks.messages import (
    check_row,
    is_learned,
    listed,
    read_messages,
    read_tools,
    says_something,
    to_answer,
)
from loraweave.tasks.rows import Row, Values
from loraweave.tasks.task import Group

TEXT_METRICS = ("bits_per_byte", "byte_perplexity", "word_perplexity")
"""What text that asks nothing is scored by, as lm-eval calls it."""
MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](role|content)["']\s*:""")
"""How a list of messages begins that is written as text."""
DEEPEST = 4
"""Lists and mappings in each other in which a text is looked for, to be named in a message."""


@dataclass
class Format(ABC):
    """How the rows of a source are read.

    Attributes:
        name: for people.
        columns: those that are read.
        unused: columns that are not read.
        notes: what was guessed, for people.
        metric: what the task is scored by, as lm-eval calls it; `loss` for the loss on held-out rows.
        always_chat: rows are messages, which only a chat template makes text of.
    """

    name: str
    columns: Sequence[str]
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    metric: str = "loss"
    always_chat: bool = False

    @abstractmethod
    def examples(self, row: Row, chat: bool) -> Group:
        """What is learned from a row.

        Args:
            row: of the source.
            chat: prompts go through the tokenizer's chat template.

        Raises:
            UserError: it is not as the format wants it; with its place.
        """

    @abstractmethod
    def prompt(self, row: Row, chat: bool) -> str | list[Message]:
        """What is asked by a row, which may lack the answer; arguments and errors as of `examples`."""

    def document(self, row: Row, chat: bool, answered: bool = True) -> dict[str, Any]:
        """A row as the lm-eval task of its metric takes it (`tasks.scored`).

        Args:
            row: of the source.
            chat: as of `examples`.
            answered: whether the row has its answer.

        Raises:
            UserError: as `examples`.
        """
        raise UserError(f"{row.place}: {self.name} are not scored by lm-eval")

    def tools(self, row: Row, chat: bool) -> list[dict[str, Any]] | None:
        """The functions that may be called to answer a row; arguments and errors as of `examples`."""
        return None

    def label(self, row: Row) -> Hashable:
        """What rows are alike in, so that each split gets its part of every kind; the same for all without labels."""
        return None

    def templates(self, chat: bool) -> dict[str, str]:
        """The prompt and the completion as templates, where they are made by such; `chat` as of `examples`."""
        return {}


@dataclass
class Chats(Format):
    """Conversations: every turn of the assistant that answers the user is learned, with all before it as the prompt.

    Attributes:
        key: their column.
        convert: makes `messages` of a row that has them in another form; given the row and its place.
    """

    key: str = "messages"
    convert: Callable[[Values, str], Values] | None = None

    def examples(self, row: Row, chat: bool) -> Group:
        tools, messages = self.tools(row, chat), self._messages(self._plain(row), row)
        first = next((i for i, message in enumerate(messages) if message["role"] == "user"), len(messages))
        if not any(message["role"] == "assistant" for message in messages[first:]):
            raise UserError(f"{row.place}: no message of the role 'assistant' that answers a 'user': nothing to learn")
        return turns(messages, first, tools, row.place)

    def prompt(self, row: Row, chat: bool) -> list[Message]:
        if not (messages := to_answer(self._messages(self._plain(row), row))):
            raise UserError(f"{row.place}: holds answers alone, so nothing is asked")
        return messages

    def tools(self, row: Row, chat: bool) -> list[dict[str, Any]] | None:
        return read_tools(self._plain(row), row.place, row.filled)

    def _plain(self, row: Row) -> dict[str, Any]:
        values = row.values if self.convert is None else self.convert(row.values, row.place)
        check_row(values, row.place)
        return values

    def _messages(self, values: dict[str, Any], row: Row) -> list[Message]:
        key = "messages" if self.convert else self.key
        if values.get(key) is None:
            raise UserError(f"{row.place}: lacks the field {key!r}{nearest(key, set(values) - {key})}")
        given = listed(values[key], f"{row.place}: {self.key!r}")
        return read_messages(given, self.key, row.place, row.filled)


@dataclass
class Pairs(Format):
    """TRL's `prompt` and `completion`, both text or both messages.

    Attributes:
        table: they are cells of a table, whose numbers are texts that print as they were written.
    """

    table: bool = False

    def examples(self, row: Row, chat: bool) -> Group:
        row = self._read(row)
        check_row(row.values, row.place)
        tools = self.tools(row, chat)
        for key in ("prompt", "completion"):
            value = _wanted(row, key)
            if not isinstance(value, list) and as_text(value) is None:
                raise UserError(f"{row.place}: {key!r} holds neither text nor messages but {type(value).__name__}")
        texts = [self._text(row.values[key]) for key in ("prompt", "completion")]
        if texts[0] is not None and texts[1] is not None:
            return [_pair(texts[0], texts[1], chat, row.place, tools)]
        if texts != [None, None]:
            raise UserError(f"{row.place}: 'prompt' and 'completion' must both be text or both be lists of messages")
        prompt = read_messages(row.values["prompt"], "prompt", row.place, row.filled)
        completion = read_messages(row.values["completion"], "completion", row.place, row.filled)
        if completion[-1]["role"] != "assistant" or not says_something(completion[-1]):
            raise UserError(f"{row.place}: the last message of 'completion' must be an answer of the role 'assistant'")
        return turns(prompt + completion, len(prompt), tools, row.place)

    def prompt(self, row: Row, chat: bool) -> str | list[Message]:
        row = self._read(row)
        prompt = as_text(_wanted(row, "prompt"))  # a row to predict may come from a table
        if prompt is None:
            return read_messages(row.values["prompt"], "prompt", row.place, row.filled)
        return asked(prompt, chat)

    def tools(self, row: Row, chat: bool) -> list[dict[str, Any]] | None:
        row = self._read(row)
        found = read_tools(row.values, row.place, row.filled)
        if found and not chat and self._text(row.values.get("prompt")) is not None:
            raise UserError(f"{row.place}: 'tools' needs messages, or `chat_template: true`")
        return found

    def document(self, row: Row, chat: bool, answered: bool = True) -> dict[str, Any]:
        prompt, completion = as_text(_wanted(row, "prompt")), str(row.values["completion"]) if answered else ""
        if prompt is None:
            kind = type(row.values["prompt"]).__name__
            raise UserError(f"{row.place}: 'prompt' holds no text but {kind}, and the metric {self.metric} wants one")
        return {"prompt": prompt, "completion": completion.rstrip()}

    def _read(self, row: Row) -> Row:
        """The row with messages that a table has as JSON in a cell."""
        cells = {key: row.values.get(key) for key in ("prompt", "completion")} if self.table or self.always_chat else {}
        made = {key: listed(cell, f"{row.place}: {key!r}") for key, cell in cells.items() if holds_messages(cell)}
        return row._replace(values={**row.values, **made}) if made else row

    def _text(self, value: Any) -> str | None:
        return as_text(value) if self.table or isinstance(value, str) else None


@dataclass
class Templates(Format):
    """Prompt and completion made from other columns by templates.

    Attributes:
        prompt_template, completion_template: in Jinja, or a column's bare name.
        chat_prompt: the prompt's template where it is a user's turn in a chat; `prompt_template` where empty.
        own: the templates are the run file's, so that no column means anything by its name.
    """

    prompt_template: str = ""
    completion_template: str = ""
    chat_prompt: str = ""
    own: bool = False

    def templates(self, chat: bool) -> dict[str, str]:
        return {"prompt": self._prompt_template(chat), "completion": self.completion_template}

    def _prompt_template(self, chat: bool) -> str:
        return (self.chat_prompt if chat else "") or self.prompt_template

    def examples(self, row: Row, chat: bool) -> Group:
        self._check(row)
        return [_pair(self._prompt(row, chat), self._completion(row), chat, row.place)]

    def prompt(self, row: Row, chat: bool) -> str | list[Message]:
        return asked(self._prompt(row, chat), chat)

    def document(self, row: Row, chat: bool, answered: bool = True) -> dict[str, Any]:
        completion = self._completion(row).rstrip() if answered else ""
        return {"prompt": self._prompt(row, chat), "completion": completion}

    def _check(self, row: Row) -> None:
        """Raise UserError for a row that wants to be learned in another way, or whose columns hold no text."""
        if not self.own:
            check_row(row.values, row.place)
            check_texts(row.values, self.columns, row.place)

    def _prompt(self, row: Row, chat: bool) -> str:
        if not self.own:
            check_texts(row.values, self.columns[:-1], row.place)  # the last has the answer
        return self._made("prompt", self._prompt_template(chat), row)

    def _completion(self, row: Row) -> str:
        return self._made("completion", self.completion_template, row)

    def _made(self, what: str, template: str, row: Row) -> str:
        self._check_fields(what, template, row)
        if (column := template.strip().removeprefix("{{").removesuffix("}}").strip()) in row.values:
            check_texts(row.values, [column], row.place)
        return rendered(template, row.values, f"{row.place}: {what}")

    def _check_fields(self, what: str, template: str, row: Row) -> None:
        """Raise UserError where the row lacks a field that a template prints; `what` it makes."""
        check_document({what: template}, with_row(row.values, template), row.place, row.place)


@dataclass
class PlainText(Format):
    """Text without a prompt, to be learned as it stands.

    Attributes:
        key: its column.
        parts: sources of which it comes in pieces, whose ends are not the end of a text.
    """

    key: str = "text"
    parts: frozenset[str] = frozenset()

    def examples(self, row: Row, chat: bool) -> Group:
        text = as_text(_wanted(row, self.key))
        if text is None or not text.strip():
            raise UserError(f"{row.place}: {self.key!r} is {'no text' if text is None else 'empty'}")
        return [Example("", text, place=row.place, ends=row.source not in self.parts)]

    def document(self, row: Row, chat: bool, answered: bool = True) -> dict[str, Any]:
        return {"prompt": "", "completion": str(row.values[self.key])}

    def prompt(self, row: Row, chat: bool) -> str | list[Message]:
        raise UserError(f"{row.place}: plain text asks for nothing, so there is nothing to predict")


def holds_messages(value: Any) -> bool:
    """Whether a value is a list of messages, or a text that begins like one written out."""
    return isinstance(value, list) or (isinstance(value, str) and MESSAGES.match(value) is not None)


def as_text(value: Any) -> str | None:
    """A value as text, numbers as they print: a table's column of nothing but numbers is read as such. None for what is
    no text."""
    return str(value) if isinstance(value, (str, int, float)) else None


def check_texts(values: Values, columns: Iterable[str], place: str) -> None:
    """Raise UserError where one of some columns holds a list or the like, which would be printed in Python's way."""
    for column in columns:
        if isinstance(value := values.get(column), (list, tuple, dict, bytes)):
            way = inner_text(column, value)
            raise UserError(
                f"{place}: the column {column!r} holds no text but {type(value).__name__}; write prompt: and "
                f"completion: as templates that take the text out of it{f', such as {way}' if way else ''}"
            )


def inner_text(column: str, value: Any) -> str | None:
    """A template that takes a text out of a column that holds a list or a mapping; None where there is none near."""
    way = _way_to_text(value, DEEPEST)
    if way is None:
        return None
    return f"{{{{{column if column.isidentifier() else f'row[{json.dumps(column, ensure_ascii=False)}]'}{way}}}}}"


def _way_to_text(value: Any, depth: int) -> str | None:
    """How the first text in a value is reached, in Jinja; None where it lies deeper, or there is none."""
    if isinstance(value, str) or depth == 0:
        return "" if isinstance(value, str) else None
    steps: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        for key, part in value.items():
            steps.append((f".{key}" if str(key).isidentifier() else f"[{json.dumps(key, ensure_ascii=False)}]", part))
    elif isinstance(value, list):
        steps += [("[0]", part) for part in value[:1]]
    return next((step + way for step, part in steps if (way := _way_to_text(part, depth - 1)) is not None), None)


def asked(prompt: str, chat: bool) -> str | list[Message]:
    """A prompt as text, or as the user's turn of a chat."""
    return [{"role": "user", "content": prompt}] if chat else prompt


def turns(messages: list[Message], first: int, tools: list[dict[str, Any]] | None, place: str) -> Group:
    """One example for each turn of the assistant from `first` on that is to be learned.

    Raises:
        UserError: there is none, or one is empty.
    """
    answers = [i for i in range(first, len(messages)) if messages[i]["role"] == "assistant"]
    learned = [i for i in answers if is_learned(messages[i])]
    if not learned:
        raise UserError(f"{place}: every turn of the assistant has the weight 0, so nothing to learn: leave it out")
    for i in learned:
        if not says_something(messages[i]):
            raise UserError(f"{place}, message {i + 1}: the assistant's answer is empty")
    return [Example(messages[:i], [messages[i]], tools=tools, place=place) for i in learned]


def _pair(prompt: str, completion: str, chat: bool, place: str, tools: list[dict[str, Any]] | None = None) -> Example:
    if not completion.strip():
        raise UserError(f"{place}: the completion is empty, so there is nothing to learn")
    if not chat:
        return Example(prompt, completion, place=place)
    return Example(asked(prompt, True), [{"role": "assistant", "content": completion}], tools=tools, place=place)


def _wanted(row: Row, key: str) -> Any:
    if row.values.get(key) is None:
        said = " (it is empty or null)" if key in row.values else ""
        raise UserError(f"{row.place}: lacks the field {key!r}{said}{nearest(key, set(row.values) - {key})}")
    return row.values[key]
