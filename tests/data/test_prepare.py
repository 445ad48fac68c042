"""The rows of a run, and what a person is told about the data before the first step."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_tasks
from rich.console import Console
from torch import nn

from loraweave.data.mixture import MixtureConfig
from loraweave.data.prepare import RunData, prepare
from loraweave.data.schedule import Schedule
from loraweave.tasks import load_tasks

Prepared = Callable[..., tuple[RunData, str]]


@pytest.fixture
def prepared(tiny_model: Callable[..., nn.Module]) -> Prepared:
    """The data of files, prepared for a run of one epoch, and what was said about them."""

    def build(files: list[Any], folder: Path, tokenizer: Any, max_length: int = 64, **options: Any) -> Any:
        said = io.StringIO()
        data, _, _ = prepare(
            load_tasks(files, folder),
            tokenizer,
            tiny_model(),
            MixtureConfig(),
            Schedule(rows_per_step=1, epochs=1),
            max_length=max_length,
            packing=False,
            validate=False,
            seed=0,
            console=Console(file=said, width=200),
            **options,
        )
        return data, said.getvalue()

    return build


def chat(*contents: str) -> dict[str, Any]:
    """A conversation: what the system says, the user, and the assistant."""
    roles = ("system", "user", "assistant")[-len(contents) :]
    return {"messages": [{"role": role, "content": said} for role, said in zip(roles, contents, strict=True)]}


def test_folded_system_messages_are_said_once(tmp_path: Path, prepared: Prepared) -> None:
    tokenizer = tiny_tasks.make_tokenizer("chat")
    tiny_tasks.write_jsonl(tmp_path / "loud.jsonl", [chat("Loud.", "Hi", "HI")] * 3)
    tiny_tasks.write_jsonl(tmp_path / "bare.jsonl", [chat("Hi", "Ho")] * 3)
    assert "system messages" not in prepared(["loud.jsonl", "bare.jsonl"], tmp_path, tokenizer)[1]
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + (
        tokenizer.chat_template
    )
    said = prepared(["loud.jsonl", "bare.jsonl"], tmp_path, tokenizer)[1]
    assert said.count("the chat template takes no system messages; they become a part of the user's turn: loud") == 1
