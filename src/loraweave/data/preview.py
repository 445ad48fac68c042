"""What a task looks like to a person and to the model: the data behind `loraweave tasks`."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from loraweave.data.encode import IGNORED, TooLongError, encode_all
from loraweave.errors import UserError
from loraweave.tasks.chat import render
from loraweave.tasks.data_task import DataTask
from loraweave.tasks.harness import folder_index, task_manager
from loraweave.tasks.task import Task


@dataclass(frozen=True)
class Listing:
    """A name that can stand in `tasks:`. `kind` is "task", "group", "tag" or "file"; `where` is a file or empty."""

    name: str
    kind: str
    where: str


@dataclass(frozen=True)
class Summary:
    """A task at a glance.

    Attributes:
        name, origin, chat_template: as of the task.
        output_type, metrics: lm-eval's, or "held-out loss".
        splits: number of examples of training, validation and test; 0 for a split that the task lacks.
        format: what its data were taken for, with the columns that are read and those that are not; "" for a task of
            lm-eval's.
        templates: how its columns become prompts and answers, by name; empty where messages are learned as they stand.
    """

    name: str
    origin: str
    output_type: str
    metrics: list[str]
    splits: dict[str, int]
    chat_template: bool
    format: str
    templates: dict[str, str]


@dataclass(frozen=True)
class Token:
    """One token of a row.

    Attributes:
        text: what it adds to the text before it. A token that ends within a character adds nothing; the one that ends
            the character adds it.
        id: its number in the vocabulary.
        trained: whether it carries loss.
    """

    text: str
    id: int
    trained: bool


@dataclass(frozen=True)
class Preview:
    """One example as text and as the exact tokens that training sees: these lack the beginning of a long prompt, and
    hold what is learned behind the completion.

    Attributes:
        prompt: as text.
        completion: as text; all of it where it becomes several rows.
        tokens: of both, in their order.
    """

    prompt: str
    completion: str
    tokens: list[Token]


def list_tasks(pattern: str | None = None, folders: Iterable[str | Path] = (), builtin: bool = True) -> list[Listing]:
    """The tasks to choose from: those of the YAML files in `folders` first, then (`builtin`) what lm-eval ships.

    Args:
        pattern: part of a name, or a glob (`mmlu_*`). lm-eval knows 14,000 names, and its index takes some ten seconds.

    Raises:
        UserError: a folder is not there.
    """
    found = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"no such folder: {folder}")
        entries = folder_index(folder).items()
        found += [Listing(name, "file", str(entry.yaml_path)) for name, entry in entries if entry.yaml_path]
    if builtin:
        manager = task_manager()
        kinds = (("task", manager.all_subtasks), ("group", manager.all_groups), ("tag", manager.all_tags))
        for kind, names in kinds:
            found += [Listing(name, kind, str(manager.task_index[name].yaml_path or "")) for name in names]
    if pattern is None:
        return found
    glob = pattern if any(letter in pattern for letter in "*?[") else f"*{pattern}*"
    return [listing for listing in found if fnmatch(listing.name, glob)]


def summarise(task: Task) -> Summary:
    """Sizes, metrics and origin of a task.

    Raises:
        UserError: a row of the task is unfit.
    """
    kind, metrics = "held-out loss", ["loss"]
    if task.lm_eval is not None:
        kind, metrics = str(task.lm_eval.OUTPUT_TYPE), list(task.lm_eval.aggregation())
    if isinstance(task, DataTask):
        columns = ", ".join(map(repr, task.format.columns))
        taken_for, templates = f"{task.about}; columns: {columns}", task.templates
    else:
        fields = {key: getattr(task.lm_eval.config, key) for key in ("doc_to_text", "doc_to_choice", "doc_to_target")}
        taken_for, templates = "", {key: str(value) for key, value in fields.items() if value is not None}
    return Summary(task.name, task.origin, kind, metrics, task.sizes, task.chat_template, taken_for, templates)


def preview(task: Task, tokenizer: Any, count: int = 3, max_length: int = 1024) -> list[Preview]:
    """The first examples of a task (of its test split, when it can only be evaluated), as text and as tokens.

    Those whose answer alone is too long are passed over, as training leaves them out. A text without a prompt may be
    several rows, each of them a preview.

    Args:
        task: from `load_tasks`.
        tokenizer: the base's.
        count: how many examples.
        max_length: tokens that a row holds at most.

    Raises:
        UserError: a row is unfit, or every answer is longer than `max_length` tokens.
    """
    previews: list[Preview] = []
    too_long: TooLongError | None = None
    for example in task.training_examples() if task.trainable else task.test_examples():
        text = render(example, tokenizer)
        try:
            rows = encode_all([example], tokenizer, max_length).rows
        except TooLongError as error:
            too_long = error
            continue
        for row in rows:
            tokens = [
                Token(added, token, label != IGNORED)
                for added, token, label in zip(
                    _added_texts(row["input_ids"], tokenizer), row["input_ids"], row["labels"], strict=True
                )
            ]
            previews.append(Preview(text.prompt, text.opening + text.completion, tokens))
            if len(previews) == count:
                return previews
    if too_long is not None and not previews:
        raise too_long
    return previews


def _added_texts(ids: list[int], tokenizer: Any) -> list[str]:
    """What each token adds to the text; joined they are the text. Each is decoded behind the ones before it, for many
    tokenizers leave out the space of a first word."""
    added: list[str] = []
    before, done = 0, 0  # decoded from `before` on; all before `done` has been added
    for end in range(1, len(ids) + 1):
        old, new = (tokenizer.decode(ids[before:i], clean_up_tokenization_spaces=False) for i in (done, end))
        if new.endswith("\ufffd") and end < len(ids):
            added.append("")
            continue
        added.append(new[len(old) :])
        before, done = done, end
    return added
