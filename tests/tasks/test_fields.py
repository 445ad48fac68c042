"""An empty cell never becomes the word "None": one guard, whatever the format of the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from loraweave.errors import UserError
from loraweave.tasks import load_tasks

WriteTask = Callable[..., Path]
ROWS = [{"text": f"word {i}", "more": "extra" if i % 2 else None, "answer": f"w{i}"} for i in range(8)]
YAML = """
task: mine
dataset_path: FORMAT
dataset_kwargs: {data_files: {train: train.SUFFIX, test: test.SUFFIX}}
training_split: train
test_split: test
output_type: generate_until
doc_to_text: "TEMPLATE"
doc_to_target: answer
generation_kwargs: {until: ["\\n"]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def written(folder: Path, kind: str, template: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    """A task whose data are in files of a kind."""
    suffix = {"json": "jsonl", "semicolons": "csv", "zipped": "csv.gz"}.get(kind, kind)
    for split in ("train", "test"):
        path = folder / f"{split}.{suffix}"
        table = pyarrow.Table.from_pylist(rows)
        if kind == "json":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif kind == "parquet":
            pyarrow.parquet.write_table(table, path)
        elif kind == "arrow":
            with pyarrow.ipc.new_stream(path, table.schema) as stream:
                stream.write_table(table)
        else:
            separator = ";" if kind == "semicolons" else ","
            table.to_pandas().to_csv(path, sep=separator, index=False)
    yaml = YAML.replace("SUFFIX", suffix).replace("TEMPLATE", template)
    yaml = yaml.replace("FORMAT", "csv" if kind in ("semicolons", "zipped") else kind)
    if kind == "semicolons":
        yaml = yaml.replace("dataset_kwargs: {", "dataset_kwargs: {sep: ';', ")
    (folder / "mine.yaml").write_text(yaml)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


KINDS = ["json", "parquet", "csv", "semicolons", "zipped", "arrow"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", ["{{text}} {{more}}:", "{{text}} {{more | trim}}:", "{{text ~ more}}:"])
def test_an_empty_cell_is_refused_and_the_cure_is_named(kind: str, template: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_tasks(["mine.yaml"], written(tmp_path, kind, template))
    assert "lacks the field 'more' that doc_to_text uses (it is empty or null)" in str(caught.value)
    assert "where it may be empty, write {{more or ''}} there" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "template",
    [
        "{{text}} {{more or ''}}:",
        "{{text}} {% if more %}{{more}}{% endif %}:",
        "{{text}} {{more if more is not none else ''}}:",
        "{{text}} {{more | default('', true)}}:",
    ],
)
def test_the_cure_works(kind: str, template: str, tmp_path: Path) -> None:
    (task,) = load_tasks(["mine.yaml"], written(tmp_path, kind, template))
    prompts = [example.prompt for example in task.test_examples() + task.training_examples()]
    assert "word 0 :" in prompts
    assert "word 1 extra:" in prompts
    assert not any("None" in prompt for prompt in prompts)


def test_nulls_inside_are_found(tmp_path: Path) -> None:
    rows = [{**row, "more": {"of": None, "list": ["a", None]}} for row in ROWS]
    for template, name in (
        ("{{more.of}}", "more.of"),
        ("{{more.list | join(' ')}}", "more.list[1]"),
        ("{{more.list}}", "more.list[1]"),
        ("{{'%r' | format(more)}}", "more.of"),
        ("{{[text, other]}}", "other"),
    ):
        with pytest.raises(UserError) as caught:
            load_tasks(["mine.yaml"], written(tmp_path, "json", template, rows))
        assert f"lacks the field {name!r}" in str(caught.value)
    load_tasks(["mine.yaml"], written(tmp_path, "json", "{{text}} {{more.list[0]}} {{more.of or ''}}", rows))


def test_documents_that_a_function_makes_are_guarded_too(tmp_path: Path) -> None:
    folder = written(tmp_path, "json", "{{text}} {{late}}")
    (folder / "own.py").write_text("def late(docs):\n    return docs.map(lambda doc: {'late': doc['more']})\n")
    yaml = (folder / "mine.yaml").read_text() + "process_docs: !function own.late\n"
    (folder / "mine.yaml").write_text(yaml)
    with pytest.raises(UserError, match="document 1 of the split 'test': lacks the field 'late'"):
        load_tasks(["mine.yaml"], folder, trust_code=True)


def test_documents_that_are_only_evaluated_are_guarded_when_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {"train": ROWS[1::2], "test": ROWS[1:]}
    hub = {split: datasets.Dataset.from_list(rows) for split, rows in sets.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: datasets.DatasetDict(hub))
    yaml = YAML.replace("FORMAT", "some/set").replace("TEMPLATE", "{{text}} {{more}}:")
    lines = [line for line in yaml.splitlines() if not line.startswith("dataset_kwargs")]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    (task,) = load_tasks(["mine.yaml"], tmp_path)
    assert len(task.training_examples()) == 3
    evaluated = list(task.lm_eval.eval_docs)
    assert task.lm_eval.doc_to_text(evaluated[0]) == "word 1 extra:"
    with pytest.raises(UserError, match=r"mine\.yaml, a document of its data: lacks the field 'more'"):
        task.lm_eval.doc_to_text(evaluated[1])


def test_the_case(shared: Path) -> None:
    with pytest.raises(
        UserError, match=r"empty_cell\.csv, line 2: lacks the field 'input'.*write {{input or ''}} there"
    ):
        load_tasks(["empty_cell.yaml"], shared / "cases")
