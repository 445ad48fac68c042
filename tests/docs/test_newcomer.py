"""The way in and the way out, as the README types it, on files of the kinds that teams have lying about."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_newcomer import write_newcomer

from loraweave.cli.app import run as typed

README = Path(__file__).resolve().parents[2] / "README.md"
SECTION = "## From your files to an adapter that travels"
LOAD = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base = AutoModelForCausalLM.from_pretrained(sys.argv[1])
model = PeftModel.from_pretrained(base, sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
assert "loraweave" not in sys.modules
print(tuple(model(**tokenizer("Opposite of hot?", return_tensors="pt")).logits.shape))
"""


def commands() -> list[list[str]]:
    text = README.read_text(encoding="utf-8").split(SECTION, 1)[1].split("\n## ", 1)[0]
    lines = re.findall(r"^    (loraweave .*?)(?:  .*)?$", text, flags=re.MULTILINE)
    return [shlex.split(line)[1:] for line in lines]


def follow(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rows: str) -> None:
    """Type what the README types, with one edit in between."""
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr("sys.stdin", io.StringIO("Opposite of hot?\n"))
    wanted = commands()
    assert [words[0] for words in wanted] == ["init", "check", "train", "eval", "chat", "export"]
    assert typed(wanted[0]) == 0
    assert typed(wanted[1]) == 1
    said = capsys.readouterr().out
    assert rows in said
    path = folder / "run.yaml"
    path.write_text(path.read_text().replace("on_bad_row: error", "on_bad_row: skip"))  # the one edit
    assert typed(wanted[1]) == 0
    assert "no problems found" in capsys.readouterr().out
    for words in wanted[2:]:
        assert typed(words) == 0, words
    run = folder / "runs" / "first"
    (scores,) = json.loads((run / "results.json").read_text())["evaluations"]
    assert set(scores["scores"]) == {"alpaca", "chats", "sharegpt", "tickets"}
    base = json.loads((folder / "lora" / "adapter_config.json").read_text())["base_model_name_or_path"]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, base, str(folder / "lora")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1, ")


def test_files_become_an_adapter_that_travels(tmp_path, monkeypatch, capsys):
    follow(write_newcomer(tmp_path / "my-files"), monkeypatch, capsys, "line 9: not JSON")


@pytest.mark.long
def test_the_files_of_a_newcomer_become_an_adapter_that_travels(shared: Path, tmp_path, monkeypatch, capsys):
    folder = Path(shutil.copytree(shared / "cases" / "newcomer", tmp_path / "my-files"))
    follow(folder, monkeypatch, capsys, "line 89: not JSON")
