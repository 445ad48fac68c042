"""What numbers, true and false and names stand for as labels: the same in every file, whatever else stands there."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from tiny_tasks import write_jsonl

from loraweave.errors import UserError
from loraweave.tasks import load_tasks
from loraweave.tasks.recognise import recognise


def named(folder: Path, entry: str | dict[str, Any]) -> dict[str, str]:
    """The label's name that is learned for each text, or scored."""
    (task,) = load_tasks([entry], folder)
    found = task.training_examples() + task.validation_examples() + task.test_examples()
    return {str(each.prompt).partition("\n")[0]: str(each.completion) for each in found}


def saved(path: Path, names: list[str], labels: list[int], start: int = 0) -> None:
    kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    texts = [f"t{start + number}" for number in range(len(labels))]
    datasets.Dataset.from_dict({"text": texts, "label": labels}, features=kinds).to_parquet(str(path))


@pytest.mark.parametrize("stray", ["?", "n/a", 0.0])
def test_a_stray_label_changes_no_other(stray: Any, tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": n % 3 + 1} for n in range(12)]
    entry = {"task": "a.jsonl", "choices": ["1", "2", "3"], "on_bad_row": "skip"}
    write_jsonl(tmp_path / "a.jsonl", rows)
    wanted = named(tmp_path, entry)
    assert wanted == {f"t{n}": str(n % 3 + 1) for n in range(12)}
    write_jsonl(tmp_path / "a.jsonl", [*rows, {"text": "bad", "label": stray}])
    if isinstance(stray, str):
        assert named(tmp_path, entry) == wanted
        del entry["on_bad_row"]
        with pytest.raises(UserError, match=r"line 13: the label '.*' is not among the choices: '1', '2', '3'"):
            named(tmp_path, entry)
    else:  # numbers from 0 to 3
        with pytest.raises(UserError, match="the numbers 0, 1, 2, 3, and there are 3 names, which stand for 0, 1 and"):
            named(tmp_path, entry)


def test_numbers_that_begin_elsewhere_are_told_beside_a_stray_label_too(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": n % 3 + 1} for n in range(12)]
    write_jsonl(tmp_path / "a.jsonl", [*rows, {"text": "bad", "label": "?"}])
    with pytest.raises(UserError, match=r"the numbers 1, 2, 3, and there are 3 names, .* write choices as a mapping"):
        named(tmp_path, {"task": "a.jsonl", "choices": ["low", "mid", "high"], "on_bad_row": "skip"})


@pytest.mark.parametrize("choices", [["true", "false"], ["False", "True"]])
def test_true_and_false_have_their_own_names_in_any_order(choices: list[str], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": f"t{n}", "label": n % 2 == 0} for n in range(12)])
    found = named(tmp_path, {"task": "a.jsonl", "choices": choices})
    assert {text: name.lower() for text, name in found.items()} == {
        f"t{n}": ("true", "false")[n % 2] for n in range(12)
    }


def test_which_name_is_true_is_said(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": f"t{n}", "label": n % 2 == 0} for n in range(12)])
    (task,) = load_tasks([{"task": "a.jsonl", "choices": ["rude", "fine"]}], tmp_path)
    assert "false is called 'rude' and true 'fine'" in task.notes
    write_jsonl(tmp_path / "b.jsonl", [{"text": f"t{n}", "label": [True, False, "maybe"][n % 3]} for n in range(12)])
    with pytest.raises(UserError, match="line 3: the label 'maybe' is not among the choices: 'false', 'true'"):
        load_tasks(["b.jsonl"], tmp_path)


@pytest.mark.parametrize(("names", "labels"), [(["1", "0"], [0, 1]), (["1", "2", "3"], [1, 2]), (["5", "1"], [1, 0])])
def test_numbers_for_names_of_a_data_set_are_their_places(names: list[str], labels: list[int], tmp_path: Path) -> None:
    saved(tmp_path / "a.parquet", names, labels * 8)
    assert named(tmp_path, "a.parquet") == {f"t{n}": names[labels[n % 2]] for n in range(16)}


def test_a_number_that_is_a_name_and_no_place_is_told(tmp_path: Path) -> None:
    """Else 1 would be '2' and 5 would be '5'."""
    saved(tmp_path / "a.parquet", ["1", "2", "3", "4", "5"], [0, 1, 2, 3, 4] * 8)
    (tmp_path / "test.csv").write_text("text,label\n" + "".join(f"u{n},{1 + n % 5}\n" for n in range(20)))
    with pytest.raises(UserError, match=r"line 6: the label 5 is not among the choices"):
        load_tasks([{"task": "a.parquet", "test": "test.csv"}], tmp_path)
    write_jsonl(tmp_path / "b.jsonl", [{"text": f"t{n}", "label": ("-1", "1")[n % 2]} for n in range(12)])
    (task,) = load_tasks([{"task": "b.jsonl", "choices": {-1: "bad", 1: "good"}}], tmp_path)
    assert {example.completion for example in task.training_examples()} == {"bad", "good"}


def test_files_that_number_labels_in_different_ways_are_read_by_name(tmp_path: Path) -> None:
    saved(tmp_path / "a-1.parquet", ["bad", "fine", "good"], [0, 1, 2] * 8)
    saved(tmp_path / "a-2.parquet", ["bad", "good"], [0, 1] * 8, start=24)
    saved(tmp_path / "test.parquet", ["good", "fine"], [0, 1] * 4, start=40)
    wanted = {f"t{n}": ("bad", "fine", "good")[n % 3] for n in range(24)}
    wanted |= {f"t{n}": ("bad", "good")[n % 2] for n in range(24, 40)}
    scored = {f"t{n}": ("good", "fine")[n % 2] for n in range(40, 48)}
    assert named(tmp_path, {"task": "a-*.parquet", "test": "test.parquet"}) == wanted | scored
    (task,) = load_tasks([{"task": "a-1.parquet", "test": "test.parquet"}], tmp_path)
    assert [doc["choices"][doc["gold"]] for doc in task.lm_eval.eval_docs] == ["good", "fine"] * 4
    assert recognise("a-*.parquet", tmp_path).labels == {"bad": 16, "fine": 8, "good": 16}
    saved(tmp_path / "test.parquet", ["awful", "good"], [0, 1] * 4, start=40)
    with pytest.raises(UserError, match="row 1: the label 'awful' is not among the choices: 'bad', 'fine', 'good'"):
        named(tmp_path, {"task": "a-1.parquet", "test": "test.parquet"})


def test_which_label_f1_is_of_is_said(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": f"t{n}", "label": ("ham", "spam")[n % 2]} for n in range(12)])
    (task,) = load_tasks([{"task": "a.jsonl", "metric": "f1"}], tmp_path)
    assert "f1 is that of 'spam', the second of the two labels" in task.notes
    golds, spam = [0, 0, 0, 1], [1, 0, 0, 1]  # one of two called spam is
    assert task.lm_eval.aggregation()["f1"](list(zip(golds, spam, strict=True))) == pytest.approx(2 / 3)
