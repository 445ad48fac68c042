"""A run on one messy file: what its folder says of rows that were learned, held out and left out is true, is the same
for every seed, and holds a run that goes on to its data."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny_project import write_base

from loraweave.bases import load_base
from loraweave.errors import UserError
from loraweave.evaluation import evaluate
from loraweave.runs.config import RunConfig
from loraweave.runs.loading import load_run
from loraweave.training.run import RunResult, train

KINDS = ("praise", "fault", "wish")
BAD = {5: '{"text": "torn', 9: '{"text": "no label", "label": null}', 14: '{"text": "empty", "label": " "}', 20: "[]"}
TWICE = (30, 41, 52)
"""Lines that ask the same."""


def write_messy(path: Path) -> None:
    """Tickets as JSON Lines with a byte-order mark, Windows line ends, blank lines, bad rows and repeated ones."""
    lines = []
    for number in range(1, 91):
        text = "the same thing" if number in TWICE else f"größer {number}\u2028→"
        row = {"text": text, "label": KINDS[number % 3], **({"note": None} if number % 2 else {})}
        lines.append(BAD.get(number) or ("" if number % 17 == 0 else json.dumps(row, ensure_ascii=False)))
    path.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_base(tmp_path / "base")
    write_messy(tmp_path / "tickets.jsonl")
    (tmp_path / "run.yaml").write_text(
        "model: ./base\nmethod: {name: lora, r: 2}\ntasks: [tickets.jsonl]\non_bad_row: skip\n"
        "train: {max_steps: 3, max_length: 64, save_strategy: steps, save_steps: 1, report_to: none, bf16: false}\n"
    )
    return tmp_path


class Stopped:
    """A progress display that ends the run, as Ctrl-C would."""

    def start(self, name: str, total: int) -> None: ...

    def step(self, step: int, loss: float | None, tokens_per_second: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    def stop(self) -> None: ...


def run(project: Path, name: str, *overrides: str, **more: Any) -> RunResult:
    config = RunConfig.load(project / "run.yaml", overrides)
    return train(config, project / "runs" / name, console=Console(file=io.StringIO()), **more)


def read(folder: Path, name: str) -> Any:
    text = (folder / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)


def test_the_folder_says_which_rows_were_learned_held_out_and_left_out(project: Path) -> None:
    result = run(project, "first")
    (record,) = read(result.folder, "splits.json").values()
    blank = {number for number in range(1, 91) if number % 17 == 0}
    usable = set(range(1, 91)) - blank - BAD.keys()
    held_out = {split: set(lines["tickets.jsonl"]) for split, lines in record["held_out"].items()}
    assert record["rows"] == {
        "training": len(usable) - sum(map(len, held_out.values())),
        **{split: len(lines) for split, lines in held_out.items()},
    }
    assert not held_out["validation"] & held_out["test"]
    assert set.union(*held_out.values()) <= usable
    for lines in (*held_out.values(), usable - set.union(*held_out.values())):
        assert {number % 3 for number in lines} == {0, 1, 2} or len(lines) < 3  # each label has its part
        assert len(lines & set(TWICE)) in (0, len(TWICE))  # rows that ask the same stay together
    assert record["chat_template"] is False
    assert (record["data"], record["format"], record["left_out"]) == ("tickets.jsonl", "text and label", len(BAD))

    skipped = read(result.folder, "skipped.jsonl")
    assert sorted((row["number"], row["source"], row["task"]) for row in skipped) == [
        (number, "tickets.jsonl", "tickets") for number in sorted(BAD)
    ]
    for row in skipped:
        assert row["why"].startswith(f"tickets.jsonl, line {row['number']}")
        assert row["row"] in (BAD[row["number"]], json.loads(BAD[row["number"]] if row["number"] != 5 else "0"))

    loaded = load_run(result.folder)
    (task,) = loaded.tasks
    text = (project / "tickets.jsonl").read_text(encoding="utf-8-sig").split("\n")
    asked = {json.loads(text[number - 1])["text"] for number in held_out["test"]}
    assert {str(example.prompt).removesuffix("\nLabel: ") for example in task.test_examples()} == asked
    score = evaluate(loaded.model, loaded.tokenizer, loaded.tasks)["tickets"]
    assert (score["metric"], score["n"]) == ("acc", len(held_out["test"]))
    (mixture,) = read(result.folder, "mixture.json")
    assert [mixture[key] for key in ("available", "validation", "test")] == list(record["rows"].values())


def test_another_seed_is_scored_on_the_same_rows(project: Path) -> None:
    first, second = (run(project, name, f"seed={seed}").folder for name, seed in (("a", 0), ("b", 7)))
    for name in ("splits.json", "skipped.jsonl", "data.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert set(read(first, "data.json")["tickets"]) == {"training", "validation", "test"}


def test_a_run_that_goes_on_is_held_to_its_file(project: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(project, "first", progress=Stopped())
    folder, file = project / "runs" / "first", project / "tickets.jsonl"
    before = {path.name: path.read_bytes() for path in folder.glob("*.json*")}
    whole = file.read_bytes()
    for changed in (whole.replace("größer 33".encode(), b"kleiner 33"), whole.replace(BAD[9].encode(), b"")):
        file.write_bytes(changed)
        if changed.count(b"kleiner"):
            with pytest.raises(UserError, match="cannot resume, the examples of tickets have changed"):
                run(project, "first", resume=True)
    file.rename(project / "others.jsonl")
    with pytest.raises(UserError, match=r'tasks was \["tickets.jsonl"\] and is now \["others.jsonl"\]'):
        run(project, "first", "tasks=[others.jsonl]", resume=True)
    with pytest.raises(UserError, match=r"no such file: .*tickets\.jsonl"):
        run(project, "first", resume=True)
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.json*")}
    file.write_bytes(whole)
    assert run(project, "first", resume=True).steps == 3


def test_a_tokenizer_of_ones_own_without_padding_pads_with_the_end(project: Path) -> None:
    model, tokenizer = load_base(project / "base")
    tokenizer.pad_token = None
    found = run(project, "own", "train.max_steps=1", base=(model, tokenizer))
    assert found.steps == 1
    assert tokenizer.pad_token == tokenizer.eos_token
