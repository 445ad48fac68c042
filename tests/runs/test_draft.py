"""`loraweave init`: what a folder holds becomes a run file that says how it was understood, and that trains."""

import json
import re
from pathlib import Path

import datasets
import pytest
import yaml
from tiny_newcomer import write_newcomer
from tiny_project import write_base, write_project

from loraweave.cli.app import run as typed
from loraweave.errors import UserError
from loraweave.runs.draft import check_draft, draft
from loraweave.runs.schema import FILE
from loraweave.tasks import load_tasks


@pytest.fixture
def newcomer(tmp_path: Path) -> Path:
    return write_newcomer(tmp_path / "newcomer")


def test_every_format_of_a_newcomer_is_understood_and_said(newcomer: Path):
    found = draft(newcomer)
    assert {Path(task.entry["task"]).stem: task.seen.format for task in found.tasks if task.seen} == {
        "alpaca": "Alpaca",
        "chats": "chat messages",
        "sharegpt": "ShareGPT conversations",
        "tickets": "text and label",
    }
    assert found.text.startswith(f"# yaml-language-server: $schema={FILE}\n")
    for words in ("2 rows cannot be used", "line 4, message 2: the assistant's answer is empty", "line 9: not JSON"):
        assert words in found.text
    assert re.search(r"# labels: 0 \d+, 1 \d+, 2 \d+", found.text)
    config = check_draft(found)
    assert (config.base.name, config.method_name, config.on_bad_row) == ("nano", "lora", "error")
    assert {"task": "tickets.jsonl", "choices": ["0", "1", "2"]} in config.tasks


def test_numbers_that_begin_elsewhere_can_be_named_where_they_stand(tmp_path: Path):
    rows = [{"review": f"r{n}", "stars_label": n % 5 + 1} for n in range(40)]
    (tmp_path / "stars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = draft(tmp_path).text
    assert "choices: {1: '1', 2: '2', 3: '3', 4: '4', 5: '5'}" in text
    named = yaml.safe_load(text.replace("5: '5'", "5: excellent"))["tasks"]
    (task,) = load_tasks(named, tmp_path)
    assert {example.completion for example in task.training_examples()} == {"1", "2", "3", "4", "excellent"}


def test_nothing_is_written_over(newcomer: Path, capsys: pytest.CaptureFixture[str]):
    assert typed(["init", str(newcomer)]) == 0
    said = capsys.readouterr().out
    assert f"loraweave train {newcomer}/run.yaml" in said
    before = (newcomer / "run.yaml").read_text()
    assert typed(["init", str(newcomer)]) == 2
    assert "is there already, and is not written over" in capsys.readouterr().err
    assert (newcomer / "run.yaml").read_text() == before


def test_splits_by_name_are_one_task(tmp_path: Path):
    for split, count in (("train", 30), ("valid", 6), ("test", 8)):
        rows = [{"prompt": f"{n}", "completion": f"{n + 1}"} for n in range(count)]
        (tmp_path / f"sums_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test_results.csv").write_text("question,answer\n1?,1\n2?,2\n")
    entries = [task.entry for task in draft(tmp_path).tasks]
    assert {
        "task": "sums_train.jsonl",
        "name": "sums",
        "validation": "sums_valid.jsonl",
        "test": "sums_test.jsonl",
    } in entries
    assert {"task": "test_results.csv"} in entries


def test_a_name_that_ends_like_a_split_is_a_name(tmp_path: Path):
    for name in ("latest", "retrieval"):
        rows = [{"question": f"{name} {n}", "answer": "a"} for n in range(9)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [task.entry for task in draft(tmp_path).tasks] == [{"task": "latest.jsonl"}, {"task": "retrieval.jsonl"}]


def test_a_base_a_task_file_and_its_data_are_known(tmp_path: Path):
    project = write_project(tmp_path / "project")
    found = draft(project)
    config = check_draft(found)
    assert config.base.name == str(project / "base")
    entries = [task.entry for task in found.tasks]
    assert {"task": "parity.yaml"} in entries
    assert {"task": "notes.jsonl", "test": "notes_test.jsonl"} in entries
    assert not any("parity_train" in str(entry) for entry in entries)  # the data of parity.yaml


def test_a_group_stands_for_the_tasks_that_it_lists(tmp_path: Path):
    for name in ("a", "b", "c"):
        for split in ("train", "test"):
            (tmp_path / f"{name}-{split}.jsonl").write_text(f'{{"x": "{split}", "y": "2"}}\n' * 20)
        (tmp_path / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: "
            f"{{train: {name}-train.jsonl, test: {name}-test.jsonl}}}}\n"
            "training_split: train\ntest_split: test\ndoc_to_text: x\ndoc_to_target: y\n"
        )
    (tmp_path / "suite.yaml").write_text("group: suite\ntask: [a, b]\n")
    found = draft(tmp_path)
    assert [task.entry for task in found.tasks] == [{"task": "c.yaml"}, {"task": "suite.yaml"}]
    assert found.left == {"a.yaml": "one of the tasks of suite.yaml", "b.yaml": "one of the tasks of suite.yaml"}
    tasks = load_tasks(yaml.safe_load(found.text)["tasks"], tmp_path)
    assert sorted(task.name for task in tasks) == ["a", "b", "c"]


def test_other_files_are_left_out_with_the_reason(tmp_path: Path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    (tmp_path / "sizes.csv").write_text("height,width\n1,2\n3,4\n")
    (tmp_path / "requirements.txt").write_text("torch\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "results.json").write_text("{}")
    found = draft(tmp_path)
    assert [task.entry for task in found.tasks] == [{"task": "pairs.jsonl"}]
    assert [*found.left] == ["sizes.csv"]
    assert "#   sizes.csv: " in found.text


def test_names_that_two_files_would_have_are_told_apart(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pairs.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    assert [task.entry for task in draft(tmp_path).tasks] == [
        {"task": "a/pairs.jsonl"},
        {"task": "b/pairs.jsonl", "name": "pairs-2"},
    ]


def test_uneven_tasks_are_evened_out(tmp_path: Path):
    for name, count in (("small", 20), ("large", 200)):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * count)
    assert yaml.safe_load(draft(tmp_path).text)["mixture"] == {"strategy": "temperature", "temperature": 2}
    (tmp_path / "large.jsonl").unlink()
    assert yaml.safe_load(draft(tmp_path).text)["mixture"] == "proportional"


def test_a_base_may_be_named_and_several_are_listed(tmp_path: Path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    write_base(tmp_path / "one")
    write_base(tmp_path / "two")
    assert yaml.safe_load(draft(tmp_path).text)["model"] == "./one"
    assert "This folder also has two." in draft(tmp_path).text
    assert yaml.safe_load(draft(tmp_path, "org/model").text)["model"] == "org/model"


def test_a_folder_without_data_is_told(tmp_path: Path):
    with pytest.raises(UserError, match="holds nothing that could be a task"):
        draft(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        draft(tmp_path / "none")


def rows_of(*columns: str, count: int = 20) -> str:
    rows = [",".join(f"{name}{n % 7}" for name in columns) for n in range(count)]
    return "\n".join([",".join(columns), *rows]) + "\n"


def test_what_is_called_a_split_is_never_learned_as_a_task_of_its_own(tmp_path: Path):
    (tmp_path / "train.csv").write_text(rows_of("id", "text", "label"))
    (tmp_path / "test.csv").write_text(rows_of("id", "text"))  # its labels are kept elsewhere
    (tmp_path / "eval.csv").write_text(rows_of("text", "label", "annotator"))
    found = draft(tmp_path)
    assert [task.entry for task in found.tasks] == [
        {"task": "train.csv", "name": tmp_path.name, "validation": "eval.csv"}
    ]
    assert found.left == {"test.csv": "a split by its name, without 'label'"}


def test_files_of_kinds_that_are_not_read_are_said(tmp_path: Path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    for name in ("survey.xlsx", "dump.zip", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    why = "no kind of file that is read: save it as CSV, JSON Lines or text"
    assert draft(tmp_path).left == {"dump.zip": why, "survey.xlsx": why}


def test_saved_data_sets_and_bases_one_folder_down_are_found(tmp_path: Path):
    rows = {"prompt": [f"p{n}" for n in range(20)], "completion": ["c"] * 20}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "data" / "saved")
    write_base(tmp_path / "models" / "tiny")
    found = draft(tmp_path)
    assert [task.entry for task in found.tasks] == [{"task": "data/saved"}]
    assert check_draft(found).base.name == str(tmp_path / "models" / "tiny")


def test_a_run_file_is_yaml_whatever_names_and_labels_hold(tmp_path: Path):
    folder = tmp_path / "mine, old: #1"
    folder.mkdir()
    rows = [{"text": f"t{n}", "label": ("a\x1b[0m", "b\u2028c", "d # e: f", "'\"")[n % 4]} for n in range(20)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "{odd} - name #2.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    (folder / "empty\x07.csv").write_text("")
    found = draft(folder)
    tasks = check_draft(found).load_tasks()
    assert sorted(task.name for task in tasks) == ["mine- old: #1", "{odd} - name #2"]


def test_splits_as_the_hub_names_them_are_one_task(tmp_path: Path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001", "validation-00000-of-00001"):
        rows = {"text": [f"{name} {n}" for n in range(9)], "label": ["a", "b", "c"] * 3}
        (tmp_path / "ag_news").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "ag_news" / f"{name}.parquet")
    found = draft(tmp_path)
    assert [task.entry for task in found.tasks] == [
        {
            "task": "ag_news/train-*-of-00002.parquet",
            "name": "ag_news",
            "test": "ag_news/test-00000-of-00001.parquet",
            "validation": "ag_news/validation-00000-of-00001.parquet",
        }
    ]
    (task,) = load_tasks(check_draft(found).tasks, tmp_path)
    assert task.sizes == {"training": 18, "validation": 9, "test": 9}


def test_data_whose_name_begins_like_a_projects_file_are_data(tmp_path: Path):
    for name in ("package_reviews.csv", "license_plates.csv"):
        (tmp_path / name).write_text(rows_of("text", "label"))
    assert [task.entry["task"] for task in draft(tmp_path).tasks] == ["license_plates.csv", "package_reviews.csv"]
