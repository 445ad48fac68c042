"""Names, YAML files and data files become tasks; what is evaluated is never trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loraweave.errors import UserError
from loraweave.tasks import Example, load_tasks

WriteTask = Callable[..., Path]
CHAT_ROW = {
    "messages": [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "Capital of France?"},
        {"role": "assistant", "content": "Paris"},
        {"role": "user", "content": "Of Italy?"},
        {"role": "assistant", "content": "Rome"},
    ]
}


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"prompt": f"{i} and one is", "completion": f" {i + 1}"} for i in range(start, start + count)]


def test_a_yaml_gives_examples_and_evaluation(write_task: WriteTask) -> None:
    path = write_task()
    (task,) = load_tasks(["topic.yaml"], path.parent)
    assert (task.name, task.origin, task.trainable) == ("topic", str(path), True)
    everything = task.training_examples() + task.validation_examples()
    assert len(everything) == 30
    assert Example("number 0 of the news\nTopic:", " Business") in everything
    assert len(task.validation_examples()) == 1  # 5 % of 30
    assert not set(map(str, task.test_examples())) & set(map(str, everything))
    assert task.lm_eval.config.num_fewshot == 0
    assert len(task.lm_eval.eval_docs) == len(task.test_examples()) == 12


def test_held_out_rows_are_drawn_by_seed_and_share(write_task: WriteTask) -> None:
    folder = write_task().parent
    by_share = load_tasks([{"task": "topic.yaml", "validation": 0.2}], folder)[0]
    assert (len(by_share.training_examples()), len(by_share.validation_examples())) == (24, 6)
    again = load_tasks([{"task": "topic.yaml", "validation": 0.2}], folder)[0]
    other = load_tasks([{"task": "topic.yaml", "validation": 0.2}], folder, seed=1)[0]
    assert by_share.validation_examples() == again.validation_examples() != other.validation_examples()


def test_the_tasks_own_validation_split_is_used_only_when_it_is_not_what_is_evaluated(write_task: WriteTask) -> None:
    path = write_task()
    lines = [{"text": "held out", "label": "World"}]
    write_jsonl(path.parent / "held.jsonl", lines)
    yaml = path.read_text().replace("test: test.jsonl", "test: test.jsonl, held: held.jsonl")
    path.write_text(yaml + "validation_split: held\n")
    (task,) = load_tasks(["topic.yaml"], path.parent)
    assert task.validation_examples() == [Example("held out\nTopic:", " World")]
    assert len(task.training_examples()) == 30
    path.write_text(yaml.replace("test_split: test", "validation_split: test"))
    (task,) = load_tasks(["topic.yaml"], path.parent)
    assert len(task.test_examples()) == 12
    assert len(task.training_examples()) == 29  # the validation split is evaluated, so one row was drawn
    assert not set(map(str, task.validation_examples())) & set(map(str, task.test_examples()))


def test_data_are_looked_for_in_data_dir_then_beside_the_yaml(write_task: WriteTask, tmp_path: Path) -> None:
    path = write_task()
    other = tmp_path / "other"
    other.mkdir()
    write_jsonl(other / "train.jsonl", [{"text": "elsewhere", "label": "World"}] * 2)
    (task,) = load_tasks(["topic.yaml"], tmp_path, data_dir="other")
    assert task.training_examples() == [Example("elsewhere\nTopic:", " World")]
    assert len(task.test_examples()) == 12  # other/ has no test.jsonl
    (task,) = load_tasks([{"task": "topic.yaml", "data_dir": str(tmp_path)}], tmp_path, data_dir="other")
    assert len(task.training_examples()) == 29
    assert path.exists()


def test_includes_functions_and_process_docs_are_lm_evals_own(write_task: WriteTask, tmp_path: Path) -> None:
    write_task(name="base.yaml")
    (tmp_path / "helpers.py").write_text(
        "def loud(doc):\n    return doc['text'].upper()\n\n"
        "def keep(docs):\n    return docs.filter(lambda doc: doc['label'] != 'World')\n"
    )
    (tmp_path / "child.yaml").write_text(
        "include: base.yaml\ntask: child\ndoc_to_text: !function helpers.loud\nprocess_docs: !function helpers.keep\n"
        'target_delimiter: ": "\n'
    )
    (task,) = load_tasks(["child.yaml"], tmp_path, trust_code=True)
    everything = task.training_examples() + task.validation_examples()
    assert len(everything) == 20
    assert Example("NUMBER 0 OF THE NEWS", ": Business") in everything


@pytest.mark.parametrize(
    ("kind", "changes", "example"),
    [
        ("several right answers", {"doc_to_target": "{{[label, 'World']}}"}, Example("one\nSay:", " Sports")),
        ("no delimiter", {"target_delimiter": ""}, Example("one\nSay:", "Sports")),
        ("a beginning", {"gen_prefix": "It is"}, Example("one\nSay: It is", " Sports")),
        ("a description", {"description": "Sort.\n\n"}, Example("Sort.\n\none\nSay:", " Sports")),
        (
            "continuation as it stands",
            {"output_type": "loglikelihood", "doc_to_target": "{{' ' + label}}", "metric_list": [{"metric": "acc"}]},
            Example("one\nSay:", " Sports"),
        ),
        (
            "plain text",
            {"output_type": "loglikelihood_rolling", "metric_list": [{"metric": "word_perplexity"}]},
            Example("", "Sports"),
        ),
        (
            "choices as text",
            {"output_type": "multiple_choice", "doc_to_choice": "{{['World', label]}}", "doc_to_target": 1},
            Example("one\nSay:", " Sports"),
        ),
        (
            "the choice is in the prompt",
            {
                "output_type": "multiple_choice",
                "doc_to_text": "{{1}}",
                "doc_to_choice": "{{['a ' + text, 'b ' + text]}}",
                "doc_to_target": "{{label}}",
            },
            Example("b one", " Sports"),
        ),
    ],
)
def test_each_kind_of_lm_eval_task(kind: str, changes: dict[str, Any], example: Example, tmp_path: Path) -> None:
    config = {
        "task": "kind",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"train": "train.jsonl", "test": "test.jsonl"}},
        "training_split": "train",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{text}}\nSay:",
        "doc_to_target": "label",
        **changes,
    }
    if config["output_type"] == "multiple_choice":
        config.setdefault("metric_list", [{"metric": "acc"}])
    elif config["output_type"] == "generate_until":
        config |= {"generation_kwargs": {"until": ["\n"]}, "metric_list": [{"metric": "exact_match"}]}
    write_jsonl(tmp_path / "train.jsonl", [{"text": "one", "label": "Sports"}])
    write_jsonl(tmp_path / "test.jsonl", [{"text": "two", "label": "World"}])
    (tmp_path / "kind.yaml").write_text(json.dumps(config))
    (task,) = load_tasks(["kind.yaml"], tmp_path)
    assert task.training_examples() == [example]


def test_a_shipped_task_on_local_rows(tmp_path: Path) -> None:
    import lm_eval.tasks

    shipped = Path(lm_eval.tasks.__file__).parent / "super_glue" / "boolq" / "default.yaml"
    rows = [{"passage": f"{i} is a number.", "question": f"is {i} a word", "label": i % 2} for i in range(12)]
    write_jsonl(tmp_path / "train.jsonl", rows[:8])
    write_jsonl(tmp_path / "validation.jsonl", rows[8:])
    (tmp_path / "mine.yaml").write_text(
        f"include: {shipped}\ntask: mine\ndataset_path: json\ndataset_name: null\n"
        "dataset_kwargs: {data_files: {train: train.jsonl, validation: validation.jsonl}}\n"
    )
    (task,) = load_tasks(["mine.yaml"], tmp_path)
    assert (len(task.training_examples()), len(task.validation_examples()), len(task.test_examples())) == (7, 1, 4)
    assert task.test_examples()[1] == Example("9 is a number.\nQuestion: is 9 a word?\nAnswer:", " yes")


@pytest.mark.parametrize("separator", [",", ";"])  # read here, and by `datasets`
def test_tables_are_data_too(separator: str, write_task: WriteTask, tmp_path: Path) -> None:
    path = write_task()
    for split in ("train", "test"):
        rows = [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
        text = "".join(f"{row['text']}{separator}{row['label']}\n" for row in rows)
        (tmp_path / f"{split}.csv").write_text(f"text{separator}label\n" + text)
    yaml = path.read_text().replace("dataset_path: json", "dataset_path: csv").replace("jsonl", "csv")
    if separator == ";":
        yaml = yaml.replace("dataset_kwargs: {", "dataset_kwargs: {sep: ';', ")
    (tmp_path / "table.yaml").write_text(yaml.replace("task: topic", "task: table"))
    plain, table = load_tasks(["topic.yaml", "table.yaml"], tmp_path)
    assert table.test_examples() == plain.test_examples()
    (tmp_path / "test.csv").write_text(f"text{separator}label\na{separator}World\nb{separator}Wrld\n")
    place = "test.csv, line 3" if separator == "," else "task 'table', document 2 of 'test'"
    with pytest.raises(UserError, match=f"{place}: the label 'Wrld' is not among"):
        load_tasks(["table.yaml"], tmp_path)


def test_a_group_stands_for_its_tasks(write_task: WriteTask, tmp_path: Path) -> None:
    yaml = write_task().read_text()
    (tmp_path / "second.yaml").write_text(yaml.replace("task: topic", "task: second"))
    (tmp_path / "both.yaml").write_text("group: both\ntask: [topic, second]\n")
    assert [task.name for task in load_tasks(["both.yaml"], tmp_path)] == ["topic", "second"]
    with pytest.raises(UserError, match="stands for 2 tasks, so they cannot all be named 'mine'"):
        load_tasks([{"task": "both.yaml", "name": "mine"}], tmp_path)


def test_one_yaml_twice_under_two_names(write_task: WriteTask) -> None:
    folder = write_task().parent
    tasks = load_tasks(["topic.yaml", {"task": "topic.yaml", "name": "again"}], folder)
    assert [(task.name, task.lm_eval.task_name) for task in tasks] == [("topic", "topic"), ("again", "again")]
    with pytest.raises(UserError, match=r"two tasks are called 'topic'.*name: another_name"):
        load_tasks(["topic.yaml", "topic.yaml"], folder)


def test_prompt_and_completion(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "plus.jsonl", pairs(40))
    (task,) = load_tasks(["plus.jsonl"], tmp_path)
    assert (task.name, task.lm_eval, task.chat_template) == ("plus", None, False)
    splits = task.training_examples(), task.validation_examples(), task.test_examples()
    assert [len(split) for split in splits] == [35, 1, 4]
    assert sorted(str(example) for split in splits for example in split) == sorted(
        str(Example(r["prompt"], r["completion"])) for r in pairs(40)
    )


def test_what_is_scored_is_apart_and_the_same_for_every_seed_name_and_order(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "plus.jsonl", pairs(200))
    write_jsonl(tmp_path / "turned.jsonl", pairs(200)[::-1])

    def asked(spec: Any, seed: int) -> set[str]:
        (task,) = load_tasks([spec], tmp_path, seed=seed)
        test = set(map(str, task.test_examples()))
        assert not test & set(map(str, task.training_examples() + task.validation_examples()))
        return test

    first = asked("plus.jsonl", 0)
    assert len(first) == 20
    assert asked("plus.jsonl", 1) == asked({"task": "turned.jsonl", "name": "other"}, 2) == first
    assert len(asked({"task": "plus.jsonl", "test": 0.25}, 0)) == 50


def test_rows_that_say_the_same_are_not_both_learned_and_scored(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "plus.jsonl", pairs(20) * 3)
    (task,) = load_tasks(["plus.jsonl"], tmp_path)
    assert len(task.test_examples()) == 6
    assert not set(map(str, task.test_examples())) & set(map(str, task.training_examples()))


def test_a_row_that_stands_there_often_is_not_the_whole_of_what_is_scored(tmp_path: Path) -> None:
    for start in range(5):
        write_jsonl(tmp_path / "often.jsonl", pairs(1, start) * 100 + pairs(50, 100))
        (task,) = load_tasks(["often.jsonl"], tmp_path)
        assert len(set(map(str, task.test_examples()))) == len(task.test_examples()) == 15


@pytest.mark.parametrize(("rows", "sizes"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1))])
def test_few_rows_are_learned_first_and_scored_last(tmp_path: Path, rows: int, sizes: tuple[int, ...]) -> None:
    write_jsonl(tmp_path / "plus.jsonl", pairs(rows))
    (task,) = load_tasks(["plus.jsonl"], tmp_path)
    assert (len(task.training_examples()), len(task.validation_examples()), len(task.test_examples())) == sizes


def test_files_for_validation_and_test(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "plus.jsonl", pairs(40))
    write_jsonl(tmp_path / "held.json", pairs(3, 100))
    (tmp_path / "test.json").write_text(json.dumps(pairs(4, 200), indent=1))
    spec = {"task": "plus.jsonl", "validation": "held.json", "test": "test.json"}
    (task,) = load_tasks([spec], tmp_path)
    sizes = [len(task.training_examples()), len(task.validation_examples()), len(task.test_examples())]
    assert sizes == [40, 3, 4]


def test_each_turn_of_the_assistant_is_an_example_and_a_conversation_stays_together(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "system", "content": str(i)}, *CHAT_ROW["messages"][1:]]} for i in range(10)]
    write_jsonl(tmp_path / "chat.jsonl", rows)
    (task,) = load_tasks([{"task": "chat.jsonl", "validation": 0.3}], tmp_path)
    assert task.chat_template is True
    splits = task.training_examples(), task.validation_examples(), task.test_examples()
    assert [len(split) for split in splits] == [12, 6, 2]
    for split in splits:
        for first, second in zip(split[::2], split[1::2], strict=True):
            messages = rows[int(first.prompt[0]["content"])]["messages"]
            assert [first, second] == [Example(messages[:2], [messages[2]]), Example(messages[:4], [messages[4]])]


def test_chat_template_wraps_plain_pairs(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "plus.jsonl", pairs(2))
    (task,) = load_tasks([{"task": "plus.jsonl", "chat_template": True}], tmp_path)
    assert task.training_examples()[0] in [
        Example([{"role": "user", "content": f"{i} and one is"}], [{"role": "assistant", "content": f" {i + 1}"}])
        for i in range(2)
    ]


def test_parquet_and_conversational_pairs(tmp_path: Path) -> None:
    from datasets import Dataset

    user, answer = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
    named = {"role": "user", "content": "hello", "name": "Ann"}  # makes a column that is null in the other messages
    rows = [{"prompt": [user], "completion": [answer]}, {"prompt": [named], "completion": [answer]}]
    Dataset.from_list(rows).to_parquet(tmp_path / "sums.parquet")
    (task,) = load_tasks([{"task": "sums.parquet", "validation": 0.1}], tmp_path)
    found = task.training_examples() + task.validation_examples()
    assert len(found) == 2
    assert Example([user], [answer]) in found
    assert Example([named], [answer]) in found


def test_a_file_scored_by_an_lm_eval_task(write_task: WriteTask) -> None:
    folder = write_task().parent
    write_jsonl(folder / "mine.jsonl", pairs(5))
    (task,) = load_tasks([{"task": "mine.jsonl", "eval": "topic.yaml"}], folder)
    assert task.lm_eval.task_name == task.name == "mine"
    assert len(task.training_examples()) == 4


def test_marks_of_windows_and_blank_lines_are_fine(write_task: WriteTask, tmp_path: Path) -> None:
    rows = [{"text": "line\u2028separator", "label": "World"}, {"text": "two", "label": "Sports"}]
    path = write_task()
    text = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")
    (task,) = load_tasks([{"task": path.name, "validation": 0.1}], tmp_path)
    found = task.training_examples() + task.validation_examples()
    assert sorted(example.prompt for example in found) == ["line\u2028separator\nTopic:", "two\nTopic:"]


def test_a_shipped_name_is_found_without_the_index() -> None:
    from loraweave.tasks import harness

    found = harness.shipped_yaml("boolq")
    assert found is not None
    assert found.parts[-3:] == ("super_glue", "boolq", "default.yaml")
    assert harness.shipped_yaml("boolqq") is None


def test_a_shipped_task_whose_data_are_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the lm-eval task 'boolq': its data set must be downloaded once"):
        load_tasks(["boolq"], tmp_path)


def test_a_text_that_lm_eval_takes_for_several_answers_is_said(tmp_path: Path) -> None:
    def noted(answer: Any, target: str) -> tuple[set[str], str]:
        write_jsonl(tmp_path / "train.jsonl", [{"text": f"t{i}", "found": answer} for i in range(4)])
        write_jsonl(tmp_path / "test.jsonl", [{"text": "t", "found": answer}])
        (tmp_path / "names.yaml").write_text(
            "task: names\ndataset_path: json\noutput_type: generate_until\ntraining_split: train\ntest_split: test\n"
            "dataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}\n"
            f'doc_to_text: "{{{{text}}}}"\ndoc_to_target: "{target}"\ntarget_delimiter: ""\n'
        )
        (task,) = load_tasks(["names.yaml"], tmp_path)
        return {str(each.completion) for each in task.training_examples()}, " ".join(task.notes)

    learned, said = noted('["Ghent", "Bruges"]', "{{found}}")
    assert learned == {"Ghent"}
    assert "is text, and lm-eval takes it for several right answers, of which the first is learned" in said
    assert noted('["Ghent", "Bruges"]', "found") == ({'["Ghent", "Bruges"]'}, "")
    assert noted(["Ghent", "Bruges"], "{{found}}") == ({"Ghent"}, "")
    assert noted("Ghent", "{{found}}") == ({"Ghent"}, "")


@pytest.mark.parametrize("folder", ["exp[1]", "plain"])
def test_a_pattern_starts_in_a_folder_of_any_name(folder: str, tmp_path: Path) -> None:
    there = tmp_path / folder / "data"
    there.mkdir(parents=True)
    (there / "a.jsonl").write_text('{"prompt": "a", "completion": "x"}\n' * 3)
    (task,) = load_tasks(["data/*.jsonl"], tmp_path / folder)
    assert {example.prompt for example in task.training_examples()} == {"a"}
