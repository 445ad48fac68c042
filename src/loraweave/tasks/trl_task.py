"""A task that is one file in TRL's formats: `messages`, or `prompt` and `completion`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from loraweave.errors import UserError, nearest
from loraweave.tasks.examples import Example, Message
from loraweave.tasks.files import FileRows, read_rows
from loraweave.tasks.held_out import rows_for_test
from loraweave.tasks.task import Group, Task

ROLES = ("system", "developer", "user", "assistant")


class FileTask(Task):
    """Rows of a file, learned as they stand. Without `lm_eval` the score is the loss on `test_examples`.

    Three splits, then: rows for the score alone, the same whatever the seed (`rows_for_test`); of the others some to
    choose learning rates and checkpoints by, drawn with the seed; and those that are learned.

    `messages` gives one example for each turn of the assistant, with all that came before it as the prompt: so every
    answer is learned in the context in which it will be asked for.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        chat_template: bool,
        lm_eval: Any,
        validation: Path | float | None,
        test: Path | float | None,
        seed: int,
    ) -> None:
        rows = read_rows(path)
        conversational = _is_conversational(rows)
        share = validation if isinstance(validation, float) else None
        super().__init__(name, str(path), chat_template or conversational, lm_eval, share, seed)
        self._by_likelihood = lm_eval is not None and lm_eval.OUTPUT_TYPE != "generate_until"
        groups = self._groups(rows)
        self._validation = self._groups(read_rows(validation)) if isinstance(validation, Path) else None
        held_out: set[int] = set()
        if lm_eval is None and not isinstance(test, Path):
            held_out = rows_for_test(rows, test)
        self._training = [group for i, group in enumerate(groups) if i not in held_out]
        self._test = [group for i, group in enumerate(groups) if i in held_out]
        if isinstance(test, Path):
            self._test = self._groups(read_rows(test))

    @property
    def trainable(self) -> bool:
        return True

    def test_examples(self) -> list[Example]:
        """The examples of the `test:` file; without one, those that are held out of the training file for it. None
        where the file has too few rows, or where lm-eval scores the task."""
        return _flat(self._test)

    def _training_groups(self) -> list[Group]:
        return self._training

    def _own_validation(self) -> list[Example] | None:
        return _flat(self._validation) if self._validation is not None else None

    def _groups(self, rows: FileRows) -> list[Group]:
        groups = [_examples(row, rows.place(i), self.chat_template) for i, row in enumerate(rows.rows)]
        if self._by_likelihood:
            groups = [[replace(example, by_likelihood=True) for example in group] for group in groups]
        return groups


def _flat(groups: list[Group]) -> list[Example]:
    return [example for group in groups for example in group]


def _is_conversational(rows: FileRows) -> bool:
    """Whether the file holds messages; checks that it is in one of TRL's formats at all."""
    columns = set(rows.rows[0])
    if "messages" in columns:
        return True
    if not {"prompt", "completion"} <= columns:
        lacking = {"prompt", "completion"} - columns
        hint = nearest("messages", columns) or (nearest(sorted(lacking)[0], columns) if len(lacking) == 1 else "")
        raise UserError(
            f"{rows.place(0)}: fields {', '.join(map(repr, sorted(columns))) or 'none'}; a task file has 'messages', "
            f"or 'prompt' and 'completion'{hint and f' ({hint[2:]})'}; for other fields write a task YAML"
        )
    return not isinstance(rows.rows[0]["prompt"], str)


def _examples(row: dict[str, Any], place: str, chat: bool) -> Group:
    for key in ("tools", "images"):
        if row.get(key):
            raise UserError(f"{place}: {key!r} is not supported; a task is text and chat messages")
    if "messages" in row:
        return _turns(_messages(row["messages"], "messages", place), place)
    for key in ("prompt", "completion"):
        if row.get(key) is None:
            raise UserError(f"{place}: lacks the field {key!r}{nearest(key, set(row) - {'prompt', 'completion'})}")
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        if not completion.strip():
            raise UserError(f"{place}: the completion is empty, so there is nothing to learn")
        if not chat:
            return [Example(prompt, completion)]
        prompt = [{"role": "user", "content": prompt}]
        completion = [{"role": "assistant", "content": completion}]
    elif isinstance(prompt, str) or isinstance(completion, str):
        raise UserError(f"{place}: 'prompt' and 'completion' must both be text or both be lists of messages")
    prompt, completion = _messages(prompt, "prompt", place), _messages(completion, "completion", place)
    if completion[-1]["role"] != "assistant" or not completion[-1]["content"].strip():
        raise UserError(f"{place}: the last message of 'completion' must be an answer of the role 'assistant'")
    return [Example(prompt, completion)]


def _turns(messages: list[Message], place: str) -> Group:
    """One example for each answer that follows something a user said."""
    answers = [
        i
        for i, message in enumerate(messages)
        if message["role"] == "assistant" and any(earlier["role"] == "user" for earlier in messages[:i])
    ]
    if not answers:
        raise UserError(f"{place}: no message of the role 'assistant' that answers a 'user', so nothing to learn")
    for i in answers:
        if not messages[i]["content"].strip():
            raise UserError(f"{place}, message {i + 1}: the assistant's answer is empty")
    return [Example(messages[:i], [messages[i]]) for i in answers]


def _messages(value: Any, key: str, place: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{place}: {key!r} must be a list of messages, each with 'role' and 'content'")
    messages = []
    for number, message in enumerate(value, start=1):
        where = f"{place}, message {number} of {key!r}"
        if not isinstance(message, dict):
            raise UserError(f"{where}: a message with 'role' and 'content' is wanted, not {type(message).__name__}")
        message = {name: part for name, part in message.items() if part is not None}  # Parquet fills gaps with nulls
        if message.get("role") not in ROLES:
            said = f"the role {message['role']!r} is unknown" if "role" in message else "lacks a 'role'"
            hint = nearest(str(message.get("role", "")), ROLES)
            raise UserError(f"{where}: {said}; roles are {', '.join(ROLES)}{hint}")
        if not isinstance(message.get("content"), str):
            raise UserError(f"{where}: 'content' must be text")
        messages.append(message)
    return messages
