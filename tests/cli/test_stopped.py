"""SIGTERM ends any command with a line and exit code 143; nothing that it had half written is left."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from loraweave.cli.app import STOPPED
from loraweave.evaluation.lm import LoadedModel
from loraweave.export import write
from loraweave.serving import server

LATE = {
    "export": (write, "_check_does_the_same"),
    "eval": (LoadedModel, "generate_until"),
    "predict": (LoadedModel, "generate_until"),
    "serve": (server, "check_together"),
}
"""What a command does towards its end."""


def asked(*arguments: Any, **named: Any) -> Any:
    os.kill(os.getpid(), signal.SIGTERM)
    pytest.fail("it went on")


@pytest.mark.parametrize("command_name", LATE)
def test_a_command_that_is_asked_to_end(
    command: Any, trained: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_name: str
) -> None:
    before, output = signal.getsignal(signal.SIGTERM), tmp_path / "out"
    there = sorted(trained.rglob("*"))
    rows = ("--task", "double", "--file", project / "double_test.jsonl", "--output", output / "answers.jsonl")
    arguments = {
        "export": ("--to", "lora", "--output", output),
        "eval": ("--limit", 1),
        "predict": rows,
        "serve": ("--port", 0),
    }[command_name]
    monkeypatch.setattr(*LATE[command_name], asked)
    code, out, err = command(command_name, trained, *arguments)
    assert (code, out) == (STOPPED, ""), err
    assert err.splitlines()[-1] == "stopped when it was asked to; what was finished is kept"
    assert sorted(trained.rglob("*")) == there
    assert [path.name for path in tmp_path.glob("out*")] == (["out"] if command_name == "predict" else [])
    assert signal.getsignal(signal.SIGTERM) == before
