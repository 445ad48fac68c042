"""Which format the rows of a source have: told by their columns, and said where it is a guess."""

from collections.abc import Iterator, Sequence
from functools import partial
from types import NoneType
from typing import Any

from loraweave.errors import UserError, nearest
from loraweave.tasks import conversations
from loraweave.tasks.fields import used_fields
from loraweave.tasks.formats import Chats, Format, Pairs, PlainText, Templates
from loraweave.tasks.labels import MOST_LABELS, Choices, Labels, counted, field_value, names_of
from loraweave.tasks.rows import FileRows, Row

TEXTS = tuple("text sentence utterance document review comment tweet content body message description".split())
LABELS = tuple("label labels category class intent topic sentiment emotion".split())
CONVERSATIONS = ("messages", "conversations", "conversation")
BESIDE_TEXT = frozenset("id idx index url source date timestamp title meta metadata author lang language".split())
"""Columns that often stand beside a text and are no label of it."""

ALPACA = "### Instruction:\n{{instruction}}\n\nINPUT### Response:\n"
ALPACA_INPUT = "{% if input %}### Input:\n{{input}}\n\n{% endif %}"
ALPACA_CHAT = "{{instruction}}{% if input %}\n\n{{input}}{% endif %}"

PAIRS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("Alpaca", "instruction", ("output", "response", "answer"), ("input", "context")),
    ("question and answer", "question", ("answer", "response"), ("context", "passage")),
    ("prompt and answer", "prompt", ("response", "answer", "output"), ()),
    ("input and output", "input", ("output", "target"), ()),
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
    found = _own(seen, prompt, completion, choices) if prompt or completion else _known(seen, choices)
    if choices is not None and not isinstance(found, Labels):
        raise UserError(f"{seen.where}: 'choices' are names of labels, and this is {found.name}")
    if metric is not None:
        found.metric = metric
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

    def has(self, *names: str) -> bool:
        return all(self.first.get(name) is not None for name in names)

    def one_of(self, names: Sequence[str]) -> str | None:
        return next((name for name in names if self.has(name)), None)

    def label_names(self, column: str) -> list[str] | None:
        return next((part.label_names[column] for part in self.parts if column in part.label_names), None)

    def said(self) -> str:
        return ", ".join(map(repr, self.names)) or "none"


def _known(seen: _Columns, choices: Choices | None) -> Format:
    if key := seen.one_of(CONVERSATIONS):
        return _chats(seen, key)
    if seen.has("prompt", "completion"):
        columns = [name for name in ("prompt", "completion", "tools") if seen.has(name)]
        return Pairs("prompt and completion", columns, always_chat=not isinstance(seen.first["prompt"], str))
    for name, question, answers, contexts in PAIRS:
        if seen.has(question) and (answer := seen.one_of(answers)):
            return _pairs(seen, name, question, answer, seen.one_of(contexts))
    return _text(seen, choices)


def _chats(seen: _Columns, key: str) -> Format:
    first = seen.first[key] if isinstance(seen.first[key], list) else []
    turn = next((part for part in first if isinstance(part, dict)), {})
    sharegpt = "role" not in turn and ("from" in turn or key != "messages")
    columns = [name for name in (key, "tools", *(("system",) if sharegpt else ())) if seen.has(name)]
    name = ("ShareGPT conversations" if sharegpt else "chat messages") + (" with tools" if seen.has("tools") else "")
    convert = partial(conversations.sharegpt, key=key) if sharegpt else None
    return Chats(name, columns, always_chat=True, key=key, convert=convert)


def _pairs(seen: _Columns, name: str, question: str, answer: str, context: str | None) -> Format:
    """Templates for a question and an answer in columns of their own."""
    if own := seen.one_of(("choices", "options")):
        raise UserError(
            f"{seen.where}: has {question!r}, {answer!r} and {own!r}; to choose among each row's own answers write "
            f'prompt: "{{{{{question}}}}}\\n", completion: "{{{{{answer}}}}}" and choices: "{{{{{own}}}}}"'
        )
    for column in (question, answer):
        if not isinstance(seen.first[column], (str, int, float)):
            raise UserError(
                f"{seen.where}: the column {column!r} holds no text but {type(seen.first[column]).__name__}; write "
                "prompt: and completion: as templates that take the text out of it"
            )
    columns = [name for name in (question, context, answer) if name]
    if name == "Alpaca":
        if also := [column for column in ("system", "history") if seen.has(column)]:
            convert = partial(conversations.alpaca, answer=answer, context=context)
            return Chats("Alpaca with a history", [*also, *columns], always_chat=True, convert=convert)
        plain = ALPACA.replace("INPUT", ALPACA_INPUT.replace("input", context) if context else "")
        chat = ALPACA_CHAT.replace("input", context) if context else "{{instruction}}"
        return Templates(name, columns, [], [], "loss", False, plain, f"{{{{{answer}}}}}", chat)
    prompt = f"{{{{{context}}}}}\n{{{{{question}}}}}\n" if context else f"{{{{{question}}}}}\n"
    return Templates(name, columns, [], [], "loss", False, prompt, f"{{{{{answer}}}}}", prompt.rstrip("\n"))


def _text(seen: _Columns, choices: Choices | None) -> Format:
    """A text and its label, or text alone."""
    texts = [name for name in TEXTS if isinstance(seen.first.get(name), str)]
    labels = [name for name in seen.names if _is_label(seen, name) and name not in texts]
    if not texts or (not labels and not seen.has("text")):
        raise _unknown(seen)
    text, label = _sure(texts, "text"), _sure(labels, "label")
    if not labels:
        others = [name for name in seen.names if name not in ("text", *BESIDE_TEXT)]
        if others:
            raise UserError(
                f"{seen.where}: has 'text' and {', '.join(map(repr, others))}: where one is a label write prompt:, "
                "completion: and choices:; plain text has the column 'text' alone"
            )
        return PlainText("plain text", ["text"], metric="bits_per_byte", key="text", parts=seen.parts[0].kind == "text")
    if text is None or label is None:
        several, what = (texts, "text") if text is None else (labels, "label")
        raise UserError(
            f"{seen.where}: which is the {what}, {' or '.join(map(repr, several))}? Say it with templates, such as "
            f'prompt: "{{{{{several[0]}}}}}\\nLabel: ", completion: "{{{{{label or labels[0]}}}}}" and choices: [...]'
        )
    title = label.replace("_", " ").strip().capitalize()
    made = _labels(seen, f"{{{{{text}}}}}\n{title}: ", f"{{{{{label}}}}}", choices, "text and label")
    made.chat_prompt = made.prompt_template.rstrip()
    if (text, label) != ("text", "label") or len(texts) + len(labels) > 2:
        made.notes.append(f"{text!r} is taken for the text and {label!r} for its label")
    return made


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
    columns = []
    for key, template in (("prompt", prompt), ("completion", completion)):
        for name in used_fields(template, f"{seen.where}, {key}", plain_name=True):
            if name not in seen.names:
                raise UserError(
                    f"{seen.where}: the template of {key!r} reads {name!r}, and the columns are {seen.said()}"
                    f"{nearest(name, seen.names)}"
                )
            columns.append(name)
    if choices is not None:
        return _labels(seen, prompt, completion, choices, "text and label")
    return Templates("columns of its own", list(dict.fromkeys(columns)), [], [], "loss", False, prompt, completion)


def _labels(seen: _Columns, prompt: str, completion: str, choices: Choices | None, name: str) -> Labels:
    where = f"{seen.parts[0].source}, {completion.strip()}"
    columns = [column for template in (prompt, completion) for column in used_fields(template, where, plain_name=True)]
    if isinstance(choices, str):
        columns += used_fields(choices, where, plain_name=True)
        return Labels(name, columns, [], [], "acc", False, prompt, completion, own_choices=choices)
    values = [field_value(completion, row) for row in seen.rows]
    for value, row in zip(values, seen.rows, strict=True):
        if not isinstance(value, (str, int, float, NoneType)):
            raise UserError(f"{row.place}: a label is a name or a whole number, not {type(value).__name__}")
    counts = counted(values)
    known = seen.label_names(columns[-1])
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
    made = Labels(name, columns, [], [], "acc", False, prompt, completion, choices=names, by_value=numbers)
    if unseen := [name for name in names if not any(by_value.get(value) == name for value in counts)]:
        made.notes.append(f"no row has the label {', '.join(map(repr, unseen))}")
    return made


def _unknown(seen: _Columns) -> UserError:
    names = set(seen.names)
    near = nearest("messages", names)
    for wanted in (("prompt", "completion"), ("instruction", "output"), ("question", "answer"), ("text", "label")):
        lacking = [name for name in wanted if name not in names]
        if len(lacking) == 1 and not near:
            near = nearest(lacking[0], names - set(wanted))
    return UserError(
        f"{seen.where}: fields {', '.join(map(repr, sorted(names))) or 'none'}; a task file has 'messages'; 'prompt' "
        "and 'completion'; 'instruction' and 'output'; 'conversations'; 'question' and 'answer'; 'text' and 'label'; "
        f"or 'text' alone{near and f' ({near[2:]})'}; for others give prompt: and completion:, templates over them"
    )
