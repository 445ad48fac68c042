"""What the page about data says: its examples are recognised under their headings, its run files are understood."""

import re
from pathlib import Path

import yaml

from loraweave.tasks.recognise import recognise
from loraweave.tasks.scored import METRICS
from loraweave.tasks.spec import TaskSpec, parse_spec

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_each_example_is_what_its_heading_says(tmp_path: Path) -> None:
    examples = re.findall(r"\n\n([A-Z]?[\w ]+?)(?: \([^\n]*\))?:\n\n```json\n(.*?)\n```", PAGE, flags=re.DOTALL)
    table = PAGE.partition("## Formats")[2].partition("\n\n`response`")[0]
    names = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(examples) == 8
    for name, row in examples:
        other = '\n{"text": "It is fine.", "label": "praise"}' if name == "text and label" else ""
        (tmp_path / "mine.jsonl").write_text(f"{row}{other}\n")
        found = recognise("mine.jsonl", tmp_path)
        assert found is not None
        assert (found.format, found.problems) == (name, [])
        assert name.removesuffix(" with tools") in names


def test_the_run_files_are_understood() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    entries = [entry for block in blocks for entry in yaml.safe_load(block)["tasks"]]
    assert len(entries) == 10
    for entry in entries:
        parse_spec(entry, "tasks")


def test_every_key_and_metric_is_named() -> None:
    keys = PAGE.partition("## Columns of your own")[2].partition("## Labels")[0]
    for name in set(TaskSpec.model_fields) - {"task", "data_dir"}:
        assert f"`{name}`" in keys
    for metrics in METRICS.values():
        assert all(f"`{metric}`" in keys for metric in metrics)
