"""A task that is one file in TRL's formats: `messages`, or `prompt` and `completion`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from loraweave.errors import UserError, nearest
from loraweave.tasks.examples import Example, Message
from loraweave.tasks.files import read_rows
from loraweave.tasks.held_out import rows_for_test
from loraweave.tasks.messages import check_row, is_learned, read_messages, read_tools, says_something
from loraweave.tasks.rows import FileRows
from loraweave.tasks.task import Group, Task


class FileTask(Task):
    """Rows of a file, learned as they stand. Without `lm_eval` the score is the loss on `test_examples`.

    Three splits, then: rows for the score alone, the same whatever the seed (`rows_for_test`); of the others some to
    choose learning rates and checkpoints by, drawn with the seed; and those that are learned.

    `messages` gives one example for each turn of the assistant, with all that came before it as the prompt: so every
    answer is learned in the context in which it will be asked for. A turn whose `weight` is 0, or whose `train` is
    false, is context alone. The same holds for a `completion` of several messages.
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
            if test is not None and not held_out:
                raise UserError(
                    f"{path}: `test: {test}` cannot be met: learning, validation and the test take three rows that "
                    "differ; name a test file"
                )
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
        groups = [_examples(row, rows, i, self.chat_template) for i, row in enumerate(rows.rows)]
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


def _examples(row: dict[str, Any], rows: FileRows, index: int, chat: bool) -> Group:
    place, filled = rows.place(index), rows.filled
    check_row(row, place)
    tools = read_tools(row, place, filled)
    if "messages" in row:
        messages = read_messages(row["messages"], "messages", place, filled)
        first = next((i for i, message in enumerate(messages) if message["role"] == "user"), len(messages))
        if not any(message["role"] == "assistant" for message in messages[first:]):
            raise UserError(f"{place}: no message of the role 'assistant' that answers a 'user', so nothing to learn")
        return _turns(messages, first, tools, place)
    for key in ("prompt", "completion"):
        if row.get(key) is None:
            raise UserError(f"{place}: lacks the field {key!r}{nearest(key, set(row) - {'prompt', 'completion'})}")
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        if not completion.strip():
            raise UserError(f"{place}: the completion is empty, so there is nothing to learn")
        if not chat:
            if tools:
                raise UserError(f"{place}: 'tools' needs messages, or `chat_template: true`")
            return [Example(prompt, completion, place=place)]
        prompt = [{"role": "user", "content": prompt}]
        completion = [{"role": "assistant", "content": completion}]
    elif isinstance(prompt, str) or isinstance(completion, str):
        raise UserError(f"{place}: 'prompt' and 'completion' must both be text or both be lists of messages")
    prompt = read_messages(prompt, "prompt", place, filled)
    completion = read_messages(completion, "completion", place, filled)
    if completion[-1]["role"] != "assistant" or not says_something(completion[-1]):
        raise UserError(f"{place}: the last message of 'completion' must be an answer of the role 'assistant'")
    return _turns(prompt + completion, len(prompt), tools, place)


def _turns(messages: list[Message], first: int, tools: list[dict[str, Any]] | None, place: str) -> Group:
    """One example for each turn of the assistant from `first` on that is to be learned."""
    answers = [i for i in range(first, len(messages)) if messages[i]["role"] == "assistant"]
    learned = [i for i in answers if is_learned(messages[i])]
    if not learned:
        raise UserError(f"{place}: every turn of the assistant has the weight 0, so nothing to learn: leave it out")
    for i in learned:
        if not says_something(messages[i]):
            raise UserError(f"{place}, message {i + 1}: the assistant's answer is empty")
    return [Example(messages[:i], [messages[i]], tools=tools, place=place) for i in learned]
