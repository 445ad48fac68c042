"""What writes beside a training: killed or asked to end at whatever moment, nothing half written is taken for whole,
and the same command goes on to what it would have come to."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.victims import Victims, files, weights

from loraweave.data import store
from loraweave.files import LOCK, is_left_over

Count = Callable[[str, str], None]

RATES = ["1e-3", "1e-2"]
GOES_ON = {"experts": True, "compare": True}
"""Commands that go on when told to, and not of themselves."""


def asked(victims: Victims, command: str) -> dict[str, Any]:
    """What a command needs beside its folder."""
    method, schedule, length = "lora", "cosine", "broken"
    how: dict[str, Any] = {"config": victims.config(method, schedule, length)}
    if command in ("export", "predict"):
        how["source"] = str(victims.whole(method, schedule, length)[0])
    return how | ({"learning_rates": RATES} if command == "compare" else {})


def left_behind(folder: Path) -> list[Path]:
    """What is not whole, in a folder and beside it; who was killed has let go of his locks, and left their files."""
    found = [*folder.parent.glob(f"{folder.name}.*"), *folder.rglob("*")]
    return [path for path in found if is_left_over(path) and path.name != LOCK]


def outcome(command: str, folder: Path, answer: dict[str, Any]) -> Any:
    """What a command came to, without what a clock or a path says."""
    if command == "export":
        return files(folder), {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    if command == "predict":
        return (folder / "answers.jsonl").read_text()
    if command == "encode":
        return answer["tokens"], sorted(path.name for path in folder.glob("*.safetensors"))
    if command == "experts":
        experts = json.loads((folder / "library.json").read_text())["experts"]
        return answer["wrong"], {name: expert["files"] for name, expert in experts.items()}
    runs = {path.name: {key: value.tolist() for key, value in weights(path).items()} for path in folder.glob("runs/*")}
    return answer["runs"], answer["chosen"], runs


def whole_so_far(command: str, folder: Path, whole: Path) -> bool:
    """Whether what is there after the fault is whole, or nothing."""
    if command == "export":
        return not folder.exists() or files(folder) == files(whole)
    if command == "predict" and (folder / "answers.jsonl").exists():
        lines = (folder / "answers.jsonl").read_bytes().split(b"\n")[:-1]
        return (whole / "answers.jsonl").read_bytes().split(b"\n")[: len(lines)] == lines
    if command == "encode":
        return all(store.read(path) is not None for path in folder.glob("*.safetensors"))
    return True


def survives(victims: Victims, count: Count, command: str, at: list[float], how: str) -> None:
    """Make a command fail at these parts of its events, one at a time, and give it again."""
    whole, more = victims.empty(f"whole-{command}"), asked(victims, command)
    first = victims.order(command, whole, **more)
    assert first["ended"] == "well", first
    expected = outcome(command, whole, first)
    for part in at:
        folder, event = victims.empty(f"torn-{command}"), int(first["events"] * part)
        for beside in folder.parent.glob(f"{folder.name}.*"):
            shutil.rmtree(beside) if beside.is_dir() else beside.unlink()
        fault = victims.order(command, folder, **{how: event}, **more)
        assert fault.get("ended") == ("stopped" if how == "ask_at" else None), (event, fault)
        assert whole_so_far(command, folder, whole), event
        if how == "ask_at" and command in ("export", "predict", "encode"):
            assert left_behind(folder) == [], event
        again = victims.order(command, folder, resume=GOES_ON.get(command, False) and folder.exists(), **more)
        if again["ended"] == "refused" and command == "export":  # it had come to its end
            assert "there is something already" in again["line"], again
            again = first
        assert again["ended"] == "well", (event, fault, again)
        assert outcome(command, folder, again) == expected, event
        assert left_behind(folder) == [], event
        fault_name = "SIGTERM" if how == "ask_at" else "SIGKILL"
        count(f"{fault_name} in {NAMES[command]}", "nothing half written, and the same in the end")


NAMES = {
    "export": "an export",
    "predict": "a file of predictions",
    "encode": "the store of encoded examples",
    "experts": "the training of experts",
    "compare": "a search for learning rates",
}


@pytest.mark.parametrize("how", ["kill_at", "ask_at"])
@pytest.mark.parametrize("command", ["export", "predict", "encode"])
def test_a_fault_in_a_writer(victims: Victims, count: Count, command: str, how: str) -> None:
    survives(victims, count, command, [0.3, 0.8], how)


@pytest.mark.long
@pytest.mark.parametrize("how", ["kill_at", "ask_at"])
@pytest.mark.parametrize("command", NAMES)
def test_faults_in_writers(victims: Victims, count: Count, command: str, how: str) -> None:
    parts = 8 if command in ("experts", "compare") else 16
    survives(victims, count, command, [(part + 0.5) / parts for part in range(parts)], how)
