"""Which format the rows of a source have: told by their columns, and said where it is a guess."""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import NoneType
from typing import Any

from loraweave.errors import UserError, nearest, shown
from loraweave.tasks import conversations
from loraweave.tasks.fields import used_fields
from loraweave.tasks.formats import (
    TEXT_METRICS,
    Chats,
    Format,
    Pairs,
    PlainText,
    Templates,
    as_text,
    check_texts,
    holds_messages,
    inner_text,
)
from loraweave.tasks.labels import MOST_LABELS, Choices, Labels, check_label, counted, field_value, names_of, options_of
from loraweave.tasks.messages import RATINGS, check_unrated, listed
from loraweave.tasks.rows import FileRows, Row

TEXTS = tuple("text sentence utterance document review comment tweet content body message description".split())
LABELS = tuple("label labels category class intent topic sentiment emotion".split())
CONVERSATIONS = ("messages", "conversations", "conversation")
BESIDE_TEXT = frozenset({"unnamed: 0"}) | frozenset(
    "id idx index url source date timestamp title meta metadata author lang language __index_level_0__".split()
)
"""Columns that often stand beside a text and are no label of it; the first and the last are what pandas calls its
row numbers."""
MOST_NAMED = 20
"""Columns that a message names: an object may have thousands."""

ALPACA = "### Instruction:\n{{instruction}}\n\nINPUT### Response:\n"
ALPACA_INPUT = "{% if input or input == 0 %}### Input:\n{{input}}\n\n{% endif %}"
ALPACA_CHAT = "{{instruction}}{% if input or input == 0 %}\n\n{{input}}{% endif %}"

PAIRS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("Alpaca", "instruction", ("output", "response", "answer"), ("input", "context")),
    ("question and answer", "question", ("answer", "response"), ("context", "passage")),
    ("prompt and answer", "prompt", ("response", "answer", "output"), ()),
    ("input and output", "input", ("output", "target"), ()),
    ("prompt and completion", "prompt", ("completion",), ()),  # in capitals; else they are TRL's
)
"""Names of formats that are a question and an answer: the question's column, the answer's, and what both lean on."""


def choose_format(
    parts: Sequence[FileRows],
    prompt: str | None = None,
    completion: str | None = None,
    choices: Choices | None = None,
    metric: str | None = None,
) -> Format:
    """The format of some rows.

    Args:
        parts: the files of a source; all of one format.
        prompt, completion: templates, for columns that have no format of their own.
        choices: names of labels.
        metric: what the task is scored by, in the place of the format's own.

    Raises:
        UserError: no format has such columns, several have, or what is asked for does not go with them.
    """
    rows = [row for part in parts for row in rows_of(part)]
    if not rows:
        raise UserError(f"{parts[0].source}: no row that can be used")
    seen = _Columns(parts, rows)
    if prompt or completion:
        found = _own(seen, prompt, completion, choices)
    elif metric in TEXT_METRICS and choices is None and (key := seen.find("text")) is not None:
        found = _plain(seen, key)
    else:
        found = _known(seen, choices)
        if not isinstance(found, (Labels, PlainText)):
            for column in filter(None, map(seen.find, RATINGS)):
                check_unrated((row.values.get(column) for row in rows), f"{seen.where}: {column!r}")
    if choices is not None and not isinstance(found, Labels):
        raise UserError(f"{seen.where}: 'choices' are names of labels, and this is {found.name}")
    if metric is not None:
        found.metric = metric
    if metric == "f1" and isinstance(found, Labels) and len(found.choices) == 2:
        found.notes.append(f"f1 is that of {found.choices[1]!r}, the second of the two labels")
    found.unused = [name for name in seen.names if name not in found.columns]
    return found


def rows_of(part: FileRows) -> Iterator[Row]:
    """The rows of a file with their places."""
    for index, values in enumerate(part.rows):
        yield Row(values, part.place(index), part.source, part.numbers[index], part.filled)


class _Columns:
    """What columns there are: their names in the order of the file, and a value of each that is not null."""

    def __init__(self, parts: Sequence[FileRows], rows: Sequence[Row]) -> None:
        self.parts, self.rows = parts, rows
        self.first: dict[str, Any] = {}
        for row in rows:
            for name, value in row.values.items():
                if self.first.get(name) is None:
                    self.first[name] = value
        self.names = list(self.first)
        self.where = rows[0].place
        self.is_table = all(part.kind in ("CSV", "TSV") for part in parts)

    def has(self, *names: str) -> bool:
        return all(self.first.get(name) is not None for name in names)

    def fills(self, name: str) -> bool:
        """Whether a row says anything in a column, be it a text or a list, which may be written as text."""
        return any(row.values.get(name) not in (None, "", "[]", []) for row in self.rows)

    def find(self, name: str) -> str | None:
        """The column that is called so; else the one that is but for capitals, as spreadsheets have them."""
        if self.has(name):
            return name
        alike = [other for other in self.names if other.lower() == name and self.has(other)]
        return alike[0] if len(alike) == 1 else None

    def one_of(self, names: Sequence[str]) -> str | None:
        return next((found for name in names if (found := self.find(name)) is not None), None)

    def label_names(self, column: str) -> list[str] | None:
        return next((part.label_names[column] for part in self.parts if column in part.label_names), None)

    def said(self) -> str:
        return listed_names(self.names)


def _known(seen: _Columns, choices: Choices | None) -> Format:
    if key := seen.one_of(CONVERSATIONS):
        return _chats(seen, key)
    if seen.has("prompt", "completion"):
        columns = [name for name in ("prompt", "completion", "tools") if seen.has(name)]
        chat = isinstance(seen.first["prompt"], list) or (seen.is_table and holds_messages(seen.first["prompt"]))
        return Pairs("prompt and completion", columns, always_chat=chat, table=seen.is_table)
    for name, usual, answers, contexts in PAIRS:
        if (question := seen.find(usual)) and (answer := seen.one_of(answers)):
            return _pairs(seen, name, question, answer, seen.one_of(contexts))
    return _text(seen, choices)


def _chats(seen: _Columns, key: str) -> Format:
    try:
        first = listed(seen.first[key], seen.where)
    except UserError:  # each row that has such a text is told
        first = []
    turn = next((part for part in first if isinstance(part, dict)), {}) if isinstance(first, list) else {}
    sharegpt = "role" not in turn and ("from" in turn or key.lower() != "messages")
    columns = [name for name in (key, "tools", *(("system",) if sharegpt else ())) if seen.has(name)]
    name = ("ShareGPT conversations" if sharegpt else "chat messages") + (" with tools" if seen.has("tools") else "")
    convert = partial(conversations.sharegpt, key=key) if sharegpt else None
    made = Chats(name, columns, always_chat=True, key=key, convert=convert)
    if greetings := sum(_opens(row.values.get(key)) for row in seen.rows):
        said = "1 conversation begins" if greetings == 1 else f"{greetings:,} conversations begin"
        made.notes.append(f"{said} with a turn of the assistant, which answers nobody: it is read and not learned")
    return made


def _opens(turns: Any) -> bool:
    """Whether a conversation begins with a turn of the assistant."""
    try:
        turns = listed(turns, "")
    except UserError:  # which is told of the row
        return False
    if not isinstance(turns, list):
        return False
    speakers = [turn.get("role") or turn.get("from") for turn in turns if isinstance(turn, dict)]
    roles = [conversations.ROLES.get(str(speaker), speaker) for speaker in speakers]
    return next((role for role in roles if role not in ("system", "developer")), None) == "assistant"


def _pairs(seen: _Columns, name: str, question: str, answer: str, context: str | None) -> Format:
    """Templates for a question and an answer in columns of their own."""
    if own := seen.one_of(("choices", "options")):
        raise UserError(
            f"{seen.where}: has {question!r}, {answer!r} and {own!r}; to choose among each row's own answers write "
            f'prompt: "{_printed(question)}\\n", completion: "{_printed(answer)}" and choices: "{_printed(own)}"'
        )
    if each := options_of(seen.names, seen.rows, answer):
        asked = "\\n".join(map(_printed, (question, *each)))
        raise UserError(
            f"{seen.where}: has {question!r}, {answer!r} and answers to choose from, {listed_names(each)}, which "
            f'nobody would be asked: write them into a prompt: of your own, such as "{asked}\\n", with completion: '
            f'"{_printed(answer)}"'
        )
    columns = [name for name in (question, context, answer) if name]
    check_texts(seen.first, columns, seen.where)
    if name == "Alpaca":
        if (also := [column for column in ("system", "history") if seen.fills(column)]) and question == "instruction":
            convert = partial(conversations.alpaca, answer=answer, context=context)
            return Chats("Alpaca with a history", [*also, *columns], always_chat=True, convert=convert)
        plain = ALPACA.replace("INPUT", ALPACA_INPUT.replace("input", context) if context else "")
        chat = ALPACA_CHAT.replace("input", context) if context else "{{instruction}}"
        plain, chat = (text.replace("instruction", question) for text in (plain, chat))
        return Templates(name, columns, [], [], "loss", False, plain, _printed(answer), chat)
    asked = "\n".join(_printed(column) for column in (context, question) if column)
    prompt = asked if name == "prompt and completion" else f"{asked}\n"
    return Templates(name, columns, [], [], "loss", False, prompt, _printed(answer), asked)


def _text(seen: _Columns, choices: Choices | None) -> Format:
    """A text and its label, or text alone."""
    found = [column for name in TEXTS if (column := seen.find(name)) is not None]
    texts = [name for name in found if isinstance(seen.first[name], str)]
    texts = texts or [name for name in found if as_text(seen.first[name]) is not None]
    labels = [name for name in seen.names if _is_label(seen, name) and name not in texts]
    if not texts or (not labels and seen.find("text") not in texts):
        raise _unknown(seen)
    text, label = _sure(texts, "text"), _sure(labels, "label")
    if not labels:
        key = seen.find("text")
        assert key is not None
        others = [name for name in seen.names if name != key and name.lower() not in BESIDE_TEXT]
        if others:
            raise UserError(
                f"{seen.where}: has {key!r} and {listed_names(others)}: where one is a label write prompt:, "
                "completion: and choices:; where the text is learned by itself write metric: bits_per_byte"
            )
        return _plain(seen, key)
    if text is None or label is None:
        several, what = (texts, "text") if text is None else (labels, "label")
        raise UserError(
            f"{seen.where}: which is the {what}, {' or '.join(map(repr, several))}? Say it with templates, such as "
            f'prompt: "{_printed(several[0])}\\nLabel: ", completion: "{_printed(label or labels[0])}" and '
            "choices: [...]"
        )
    title = label.replace("_", " ").strip().capitalize()
    made = _labels(seen, f"{_printed(text)}\n{title}: ", _printed(label), choices, [text, label])
    made.chat_prompt = made.prompt_template.rstrip()
    if (text, label) != ("text", "label") or len(texts) + len(labels) > 2:
        made.notes.append(f"{text!r} is taken for the text and {label!r} for its label")
    return made


def _plain(seen: _Columns, key: str) -> PlainText:
    parts = frozenset(part.source for part in seen.parts if part.kind == "text")
    return PlainText("plain text", [key], metric="bits_per_byte", key=key, parts=parts)


def _printed(column: str) -> str:
    """A template that prints a column, also one whose name is more than a word."""
    return f"{{{{{column}}}}}" if column.isidentifier() else f"{{{{row[{json.dumps(column, ensure_ascii=False)}]}}}}"


def _is_label(seen: _Columns, name: str) -> bool:
    named = name.lower() in LABELS or name.lower().endswith(("label", "_class", "_category"))
    return seen.has(name) and (named or seen.label_names(name) is not None)


def _sure(candidates: Sequence[str], usual: str) -> str | None:
    """The one candidate, or the one with the usual name."""
    if len(candidates) == 1 or usual not in candidates:
        return candidates[0] if len(candidates) == 1 else None
    return usual


def _own(seen: _Columns, prompt: str | None, completion: str | None, choices: Choices | None) -> Format:
    if not prompt or not completion:
        lacking, given = ("completion", "prompt") if prompt else ("prompt", "completion")
        raise UserError(f"{seen.where}: {given!r} is given and {lacking!r} is not; templates for both are wanted")
    columns = [*_read_by(seen, "prompt", prompt), *_read_by(seen, "completion", completion)]
    if choices is None:
        columns = list(dict.fromkeys(columns))
        notes = [
            f"{name!r} is printed as numbers; to learn what they stand for add choices: [{listed_names(known)}]"
            for name in columns
            if (known := seen.label_names(name))
        ]
        return Templates("columns of its own", columns, [], notes, "loss", False, prompt, completion, own=True)
    made = _labels(seen, prompt, completion, choices, columns)
    made.own = True
    return made


def _read_by(seen: _Columns, key: str, template: str) -> list[str]:
    """The columns that a template of the run file reads; all of them where it reads `row`."""
    plain = template.replace("{{ ", "{{").replace(" }}", "}}")
    for name in seen.names:
        if not name.isidentifier() and (plain == name or f"{{{{{name}}}}}" in plain):
            raise UserError(f"{seen.where}: in the template of {key!r} write the column {name!r} as {_printed(name)}")
    found: list[str] = []
    for name in used_fields(template, f"{seen.where}, {key}", plain_name=True):
        if name == "row" and name not in seen.names:
            found += seen.names
        elif name in seen.names:
            found.append(name)
        else:
            raise UserError(
                f"{seen.where}: the template of {key!r} reads {name!r}, and the columns are {seen.said()}"
                f"{nearest(name, seen.names)}"
            )
    if not found and key == "completion":
        raise UserError(
            f"{seen.where}: the template of {key!r} reads no column, so all rows would have the one answer "
            f"{shown(template)}; the columns are {seen.said()}"
        )
    return found


def _labels(seen: _Columns, prompt: str, completion: str, choices: Choices | None, columns: Sequence[str]) -> Labels:
    """Templates whose answer is a label; the last of `columns` has it."""
    made = Labels("text and label", columns, [], [], "acc", False, prompt, completion)
    if isinstance(choices, str):
        made.columns, made.own_choices = [*columns, *_read_by(seen, "choices", choices)], choices
        return made
    where = f"{seen.parts[0].source}, {completion.strip()}"
    given = [field_value(completion, row) for row in seen.rows]
    values = [value for value in given if isinstance(value, (str, int, float, NoneType))]
    if all(value is None for value in values):
        check_label(next(value for value in given if value is not None), seen.where)
    counts = counted(values)
    known = seen.label_names(columns[-1])
    if {bool} <= {type(value) for value in values} <= {bool, str, NoneType}:
        if choices is None and known is None:
            choices = ["false", "true"]
            made.notes.append("true and false are taken for the names of the labels")
        elif isinstance(choices, list) and len(choices) == 2:
            if sorted(map(str.lower, choices)) == ["false", "true"]:
                choices = sorted(choices, key=str.lower)
            made.notes.append(f"false is called {choices[0]!r} and true {choices[1]!r}")
    if known is not None:
        counts.pop(-1, None)  # what `datasets` writes where nobody has given a label
    if len(counts) > MOST_LABELS:
        raise UserError(
            f"{where}: {len(counts):,} different labels, and at most {MOST_LABELS} are ranked; to learn to write them, "
            "give prompt: and completion: without choices:"
        )
    by_value = names_of(counts, choices, known, where)
    names = list(dict.fromkeys(by_value.values()))
    if len(names) < 2:
        raise UserError(f"{where}: every row has the label {names[0]!r}, so there is nothing to tell apart")
    numbers = {value: names.index(name) for value, name in by_value.items()}
    made.choices, made.by_value = names, numbers
    made.notes += _alike(names) if choices is None else ()
    if unseen := [name for name in names if not any(by_value.get(value) == name for value in counts)]:
        made.notes.append(f"no row has the label {', '.join(map(repr, unseen))}")
    return made


def _alike(names: Sequence[str]) -> Iterator[str]:
    """What is to be said of labels that a person may have meant to be one."""
    by_letters: dict[str, list[str]] = {}
    for name in names:
        by_letters.setdefault(name.casefold(), []).append(name)
    for first, *others in (some for some in by_letters.values() if len(some) > 1):
        same = ", ".join(f"{json.dumps(each, ensure_ascii=False)}: {json.dumps(first)}" for each in (first, *others))
        yield (
            f"the labels {', '.join(map(repr, (first, *others)))} differ in capitals alone, and are told apart: where "
            f"they mean the same, say so in choices: {{{same}, ...}}"
        )


def _unknown(seen: _Columns) -> UserError:
    names = set(seen.names)
    header = "; a table's first line names its columns" if seen.is_table else ""
    turns = [name for name, value in seen.first.items() if isinstance(value, list) and value and type(value[0]) is dict]
    near = nearest("messages", turns)
    for wanted in (("prompt", "completion"), ("instruction", "output"), ("question", "answer"), ("text", "label")):
        lacking = [name for name in wanted if name not in names]
        if len(lacking) == 1 and not near:
            near = nearest(lacking[0], names - set(wanted))
    return UserError(
        f"{seen.where}: fields {listed_names(sorted(names))}; a task file has 'messages'; 'prompt' "
        "and 'completion'; 'instruction' and 'output'; 'conversations'; 'question' and 'answer'; 'text' and 'label'; "
        f"or 'text' alone{near and f' ({near[2:]})'}; for others give prompt: and completion:, templates over them"
        f"{_nested(seen)}{header}"
    )


def _nested(seen: _Columns) -> str:
    """How a template takes a text out of the first column that holds more than that."""
    found = next(((name, value) for name, value in seen.first.items() if value and type(value) in (list, dict)), None)
    if found is None:
        return ""
    name, value = found
    if isinstance(value, list) and isinstance(value[0], dict) and value[0].keys() & {"role", "from"}:
        return f"; where {name!r} holds conversations, call it 'messages'"
    way = inner_text(name, value)
    return f", such as {way} for what {name!r} holds" if way else ""


def listed_names(names: Iterable[str]) -> str:
    """Names of columns, for a message."""
    shown = [repr(name) for name in names]
    more = f" and {len(shown) - MOST_NAMED:,} more" if len(shown) > MOST_NAMED else ""
    return (", ".join(shown[:MOST_NAMED]) or "none") + more
