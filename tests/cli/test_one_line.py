"""Inputs that once ended in a traceback: each is told in one line, with file, key and value."""

import re
import shutil
from pathlib import Path

import pytest

from loraweave.cli import app

NEST = "[" * 3000 + "]" * 3000
BOMB = "&a [z,z,z,z,z,z,z,z,z]\n" + "".join(
    f"{key}: &{letter} [{','.join(['*' + below] * 9)}]\n"
    for key, below, letter in zip(
        ("data_dir", "output", "chat_template", "seed", "trust_code", "base_dir"), "abcdef", "bcdefg", strict=True
    )
)


@pytest.fixture
def own(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, in which the commands are typed."""
    folder = tmp_path / "own"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("trained"))
    monkeypatch.chdir(folder)
    return folder


def refused(result: tuple[int, str, str], *parts: str) -> None:
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert len(err) < 1000
    for part in ("error: ", *parts):
        assert part in err


@pytest.mark.parametrize(
    ("added", "parts"),
    [
        ("? [a]\n: 1\n", ["run.yaml:9", "a key is a word or a number, not ['a']"]),
        ("eval: [2026-13-45]\n", ["run.yaml:9", "'2026-13-45' cannot be read as timestamp"]),
        ("seed: !!int x\n", ["run.yaml:9", "'x' cannot be read as int"]),
        ("seed: !!bool x\n", ["run.yaml:9", "'x' cannot be read as bool"]),
        (f"seed: {'9' * 6000}\n", ["run.yaml:9", "99999", "cannot be read as int"]),
        (f"eval: {NEST}\n", ["run.yaml", "nested too deeply"]),
        (f"eval: {BOMB}", ["run.yaml", "its aliases (*name) stand for millions of values"]),
        ("seed: &a [*a]\n", ["run.yaml", "its aliases (*name) stand for millions of values"]),
        ("data_dir: \x01\n", ["run.yaml", "#x0001"]),
        ("base_dir: 3\n", ["run.yaml:9: base_dir", "got 3"]),
        ("base_dir:\n", ["run.yaml:9: base_dir", "got None"]),
        ("base_dir: ~nobody-here/x\n", ["run.yaml:9: base_dir: '~nobody-here/x'", "no home folder"]),
        ("output: ~nobody-here/x\n", ["run.yaml:9: output: '~nobody-here/x'", "no home folder"]),
        ('output: "a\\0b"\n', ["run.yaml:9: output: 'a\\x00b'", "a zero byte"]),
        ('data_dir: "a\\0b"\n', ["run.yaml:9: data_dir: 'a\\x00b'", "a zero byte"]),
        ('data_dir: "\\ud800"\n', ["run.yaml:9: data_dir", "half of a character"]),
        (f"data_dir: {'n' * 300}\n", ["run.yaml:9: data_dir", "a name of 300 bytes"]),
        (f"output: {'n' * 300}\n", ["run.yaml:9: output", "a name of 300 bytes"]),
    ],
)
def test_lines_of_a_run_file(command, own, added: str, parts: list[str]) -> None:
    text = (own / "run.yaml").read_text()
    assert len(text.splitlines()) == 8
    (own / "run.yaml").write_text(text + added)
    before = sorted(own.iterdir())
    refused(command("train", "run.yaml"), *parts)
    assert sorted(own.iterdir()) == before


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("a=? [a]", ["--set 'a=? [a]'", "a key is a word or a number"]),
        (f"eval={NEST}", ["--set 'eval=[[", "nested too deeply"]),
        (f"seed={'9' * 6000}", ["--set 'seed=999", "cannot be read as int"]),
        ("seed=2026-13-45", ["--set 'seed=2026-13-45'", "month must be in 1..12"]),
        ("model=~nobody-here/x", ["--set 'model=~nobody-here/x': model", "no home folder"]),
        ("output=~nobody-here/x", ["--set 'output=~nobody-here/x': output", "no home folder"]),
        (f"model={'n' * 300}", ["--set 'model=nnn", "a name of 300 bytes"]),
        ("method={name: []}", ["--set 'method={name: []}'", "unknown method []"]),
    ],
)
def test_settings_on_the_command_line(command, own, override: str, parts: list[str]) -> None:
    refused(command("train", "run.yaml", "--set", override), *parts)


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ("~nobody-here/x", ["'~nobody-here/x'", "no home folder"]),
        ("~nobody-here/x.yaml", ["no home folder"]),
        ("~nobody-here/x.jsonl", ["no home folder"]),
        (f"{'n' * 300}.yaml", ["a name of 305 bytes"]),
        (f"{'n' * 300}.jsonl", ["a name of 306 bytes"]),
        ('"\\ud800.jsonl"', ["run.yaml:4", "unicode"]),
        ('{task: parity.yaml, name: "\\ud800"}', ["run.yaml:4", "'\\ud800' cannot be a name", "whole characters"]),
        ('{task: parity.yaml, name: "a\\nb"}', ["run.yaml:4", "'a\\nb' cannot be a name", "one line"]),
        ("{task: parity.yaml, name: ..}", ["run.yaml:4", "'..' cannot be a name"]),
        (f"{{task: parity.yaml, name: {'n' * 300}}}", ["run.yaml:4", "200 bytes at most"]),
        ("{task: parity.yaml, data_dir: ~nobody-here/x}", ["no home folder"]),
        ('{task: notes.jsonl, name: new, validation: "a\\0.jsonl"}', ["a zero byte"]),
        (f"{{task: notes.jsonl, name: new, test: {'n' * 300}.jsonl}}", ["a name of 306 bytes"]),
    ],
)
def test_tasks_of_a_run_file(command, own, entry: str, parts: list[str]) -> None:
    text = (own / "run.yaml").read_text()
    (own / "run.yaml").write_text(text.replace('"parity.yaml"', entry))
    refused(command("train", "run.yaml", "--dry-run"), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "n" * 300], ["a name of 300 bytes"]),
        (["train", "run.yaml", "--output", "n" * 300], ["a name of 300 bytes"]),
        (["train", "run.yaml", "--output", "~nobody-here/x"], ["no home folder"]),
        (["compare", "run.yaml", "--methods", "lora", "--output", "n" * 300], ["a name of 300 bytes"]),
        (["eval", "n" * 300], ["a name of 300 bytes"]),
        (["analyze", "n" * 300], ["a name of 300 bytes"]),
        (["analyze", ".", "--full", "~nobody-here/x"], ["no home folder"]),
        (["tasks", "preview", "parity.yaml", "--model", "~nobody-here/x"], ["no home folder"]),
        (["tasks", "show", "n" * 300 + ".yaml"], ["a name of 305 bytes"]),
        (["train", "caf\udce9.yaml"], ["'caf\\udce9.yaml' is not UTF-8 text"]),
    ],
)
def test_paths_on_the_command_line(command, own, arguments: list[str], parts: list[str]) -> None:
    before = sorted(own.iterdir())
    refused(command(*arguments), *parts)
    assert sorted(own.iterdir()) == before


def test_a_name_with_brackets_is_printed_as_it_stands(command, own) -> None:
    code, out, err = command("train", "run.yaml", "--output", "out[/b]x", "--set", "train.max_steps=1")
    assert code == 0, err
    assert "run       out[/b]x" in out
    text = (own / "run.yaml").read_text()
    (own / "run.yaml").write_text(text.replace('"parity.yaml"', "{task: parity.yaml, name: '[bold] :wave:'}"))
    code, out, err = command("train", "run.yaml", "--output", "other", "--set", "train.max_steps=1")
    assert code == 0, err
    assert out.count("[bold] :wave:") == 2
    code, out, err = command("eval", "other", "--limit", 1)
    assert code == 0, err
    assert "[bold] :wave:" in out


def raising(error: BaseException):
    def read(*arguments: object) -> None:
        raise error

    return read


@pytest.mark.parametrize("output", [None, "kept", "empty", "absent"])
def test_the_last_net(command, own, monkeypatch, tmp_path, output: str | None) -> None:
    """One line, exit code 70, and the traceback in a file that the line names."""
    from loraweave.runs.config import RunConfig

    for name in ("kept", "empty", "temporary"):
        (tmp_path / name).mkdir()
    (tmp_path / "kept" / "run.yaml").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(RunConfig, "load", raising(LookupError("no [bold] such\nthing")))
    code, out, err = command("train", "run.yaml", *(["--output", tmp_path / output] if output else []))
    assert (code, out) == (70, "")
    assert len(err.splitlines()) == 1
    assert "LookupError: no [bold] such)" in err
    (file,) = re.findall(r"the traceback is in (\S+);", err)
    assert Path(file).parent == tmp_path / ("kept" if output == "kept" else "temporary")
    text = Path(file).read_text()
    assert "loraweave 'train' 'run.yaml'" in text
    assert "raise error" in text
    assert list((tmp_path / "empty").iterdir()) == []


def test_what_is_no_fault_and_what_is_no_exception(command, own, monkeypatch) -> None:
    from loraweave.runs.config import RunConfig

    monkeypatch.setattr(RunConfig, "load", raising(MemoryError()))
    code, _, err = command("train", "run.yaml")
    assert (code, len(err.splitlines())) == (70, 1)
    assert "memory is full" in err
    assert "train.per_device_train_batch_size" in err
    panic = type("PanicException", (BaseException,), {})  # as the Rust libraries underneath raise
    monkeypatch.setattr(RunConfig, "load", raising(panic("called `Option::unwrap()`")))
    code, _, err = command("train", "run.yaml")
    assert (code, len(err.splitlines())) == (70, 1)
    assert "PanicException: called" in err


def test_a_message_of_any_length_is_one_line(command, own, monkeypatch) -> None:
    from loraweave.errors import UserError
    from loraweave.runs.config import RunConfig

    monkeypatch.setattr(RunConfig, "load", raising(UserError("long \n" * 10_000)))
    code, _, err = command("train", "run.yaml")
    assert (code, len(err.splitlines())) == (2, 1)
    assert len(err) < app.LONGEST + 20
