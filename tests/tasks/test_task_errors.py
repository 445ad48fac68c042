"""Whatever is wrong with a task: one line that says the file, the place and what would be right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_tasks import write_jsonl

from loraweave.errors import UserError
from loraweave.tasks import load_tasks

WriteTask = Callable[..., Path]
GOOD = '{"text": "a", "label": "World"}'
PAIR = '{"prompt": "a", "completion": "b"}'


def message_of(specs: list[Any], folder: Path, **options: Any) -> str:
    def load_and_read() -> None:
        for task in load_tasks(specs, folder, **options):
            task.training_examples()

    with pytest.raises(UserError) as caught:
        load_and_read()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ({"task": "topic.yaml", "nme": "x"}, ["entry 2: unknown key 'nme', did you mean 'name'?"]),
        ({"name": "x"}, ["entry 2: lacks 'task'"]),
        (7, ["entry 2: a task is a name, a path or a mapping with 'task', not int"]),
        ({"task": "topic.yaml", "name": "a/b"}, ["'a/b' cannot be a name"]),
        ({"task": "topic.yaml", "validation": 2}, ["neither a file nor a share between 0 and 1"]),
        (
            {"task": "x.csv", "split": {"training": "a"}},
            ["split: {'training': 'a'}: a split's name is wanted, or a map"],
        ),
        ({"task": "x.csv", "split": 3}, ["split: 3: a split's name is wanted"]),
        ({"task": "topic.yaml", "validation": "held.jsonl"}, ["'validation' is a share here"]),
        ({"task": "topic.yaml", "test": "test.jsonl"}, ["'test' belongs to data; lm-eval's task says its own"]),
        ({"task": "topic.yaml", "data_dir": "nowhere"}, ["there is no folder", "nowhere"]),
        ("topics.yaml", ["no such task file", "topics.yaml", "did you mean 'topic.yaml'?"]),
        ("sub/topic.yaml", ["no such task file", "there is no folder", "sub"]),
        ("sub/topic.txt", ["no such file", "there is no folder", "topic.txt"]),
        ("tran.jsonl", ["no such file", "did you mean 'train.jsonl'?"]),
    ],
)
def test_entries(spec: Any, parts: list[str], write_task: WriteTask) -> None:
    message = message_of([{"task": "topic.yaml", "name": "fine"}, spec], write_task().parent)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("given", ["topic.yaml", {"task": "topic.yaml"}])
def test_one_task_is_no_list_of_tasks(given: Any, write_task: WriteTask) -> None:
    assert message_of(given, write_task().parent).startswith("tasks: a list of tasks, got ")


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("task: topic", "task: [topic", ["topic.yaml, line ", "not YAML"]),
        ("task: topic", "- topic", ["topic.yaml", "not YAML"]),
        ("doc_to_text:", "doc_to_txt:", ["topic.yaml, line 8: unknown key 'doc_to_txt', did you mean 'doc_to_text'?"]),
        ("task: topic", "include: nothing.yaml", ["topic.yaml: includes", "nothing.yaml", "not there"]),
        ("doc_to_target: label", "doc_to_target: !function no.where", ["doc_to_target: Cannot import module 'no'"]),
        ("task: topic", "tag: topic", ["topic.yaml: lacks 'task'"]),
        ("dataset_path: json", "", ["topic.yaml: lacks 'dataset_path'"]),
        ("test_split: test", "", ["topic.yaml: lacks 'test_split'"]),
        ("test_split: test", "test_split: tset", ["test_split is 'tset'", "'train', 'test', did you mean 'test'?"]),
        ("test: test.jsonl", "test: train.jsonl", ["'train' and 'test' read the same file"]),
        ("train: train.jsonl", "train: trian.jsonl", ["no such data file", "did you mean 'train.jsonl'?", "data_dir"]),
        ("metric: acc", "metric: accc", ["topic.yaml: lm-eval has no metric 'accc' at hand, did you mean 'acc'?"]),
        ("output_type: multiple_choice", "output_type: guess", ["lm-eval cannot build it", "guess"]),
        ("{{text}}", "{{text", ["topic.yaml, doc_to_text: the template", "does not parse"]),
        ("task: topic", "task: topic\nprocess_docs: !function emptied.by", ["topic.yaml: process_docs leaves nothing"]),
        ("training_split: train", "", ["the task 'topic'", "it can only be evaluated"]),
        ("training_split: train", "training_split: test", ["'test' and 'test' read the same file"]),
    ],
)
def test_yaml(old: str, new: str, parts: list[str], write_task: WriteTask) -> None:
    path = write_task()
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    (path.parent / "emptied.py").write_text("def by(docs):\n    return docs.select([])\n")
    message = message_of(["topic.yaml"], path.parent, trust_code=True)
    for part in parts:
        assert part in message


def test_an_unknown_metric_without_an_aggregation(write_task: WriteTask, capsys: pytest.CaptureFixture) -> None:
    path = write_task()
    path.write_text(path.read_text().split("metric_list:")[0] + "metric_list:\n  - metric: accc\n")
    message = message_of(["topic.yaml"], path.parent)
    assert "topic.yaml, line 11: lm-eval has no metric 'accc' at hand, did you mean 'acc'?" in message
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("file", ["train.jsonl", "test.jsonl"])
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (f"{GOOD}\n\n{{'text': 1}}\n", [", line 3: not JSON"]),
        (f"{GOOD}\n[1, 2]\n", [", line 2: a JSON object is wanted", "not list"]),
        (f'{GOOD}\n{{"txt": "a", "label": "World"}}\n', [", line 2: lacks the field 'text' that doc_to_text uses"]),
        (
            f'{GOOD}\n{{"text": null, "label": "World"}}\n',
            [", line 2: lacks the field 'text'", "(it is empty or"],
        ),
        (f'{GOOD}\n{{"text": "a"}}\n', [", line 2: lacks the field 'label' that doc_to_target uses"]),
        (
            f'{GOOD}\n\n{{"text": "a", "label": "Wrld"}}\n',
            [", line 3: the label 'Wrld' is not among the choices: 'Business', 'World', 'Sports'"],
        ),
        (f'{GOOD}\n{{"text": "a", "label": 7}}\n', [", line 2: the label 7 is not among the choices"]),
        ("", ["is empty"]),
        ("\n \n", ["is empty"]),
        (b'{"text": "caf\xe9"}\n', [", line 1: not UTF-8 text"]),
        (f'{GOOD}\n{{"text": "\\ud83d", "label": "World"}}\n', [", line 2: holds '\\ud83d', half of a character"]),
        (b"PK\x03\x04\x00\x00", [", line 1: holds a zero byte"]),
    ],
)
def test_rows(file: str, content: str | bytes, parts: list[str], write_task: WriteTask) -> None:
    folder = write_task().parent
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    message = message_of(["topic.yaml"], folder)
    assert str(folder / file) in message
    for part in parts:
        assert part in message


def test_a_field_of_mixed_kinds_is_fine_where_it_is_not_a_label(write_task: WriteTask) -> None:
    path = write_task(train=[{"text": i, "label": "World", "id": j} for i, j in ((1, "a"), ("one", 2), (1.5, None))])
    (task,) = load_tasks(["topic.yaml"], path.parent)
    everything = task.training_examples() + task.validation_examples()
    assert {example.prompt for example in everything} == {"1\nTopic:", "one\nTopic:", "1.5\nTopic:"}


def test_a_field_that_the_template_only_asks_about_may_be_missing(write_task: WriteTask) -> None:
    path = write_task(train=[{"text": "a", "label": "World", "hint": "b"}, {"text": "c", "label": "World"}] * 2)
    path.write_text(path.read_text().replace("{{text}}", "{% if hint %}{{hint}} {% endif %}{{text}}"))
    (task,) = load_tasks(["topic.yaml"], path.parent)
    assert {example.prompt for example in task.training_examples()} == {"b a\nTopic:", "c\nTopic:"}


def test_an_empty_answer(write_task: WriteTask) -> None:
    path = write_task(train=[{"text": "a", "label": "World"}, {"text": "a", "label": " "}])
    text = path.read_text().replace("multiple_choice", "generate_until").replace("metric: acc", "metric: exact_match")
    path.write_text(text.replace("doc_to_choice: [Business, World, Sports]\n", ""))
    message = message_of(["topic.yaml"], path.parent)
    assert "train.jsonl, line 2: the answer (doc_to_target) is empty" in message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{"frage": "a", "antwort": "b"}', ["line 1: fields 'antwort', 'frage'", "'messages'", "give prompt: and"]),
        ('{"prompt": "a", "completions": "b"}', ["line 1", "did you mean 'completions'?"]),
        (PAIR + '\n{"prompt": "a"}', ["line 2: lacks the field 'completion'"]),
        (PAIR + '\n{"prompt": "a", "completion": " "}', ["line 2: the completion is empty"]),
        (PAIR + '\n{"prompt": "a", "completion": 3}', ["line 2", "must both be"]),
        ('{"messages": "hello"}', ["line 1: 'messages' must be a list of messages"]),
        ('{"messages": ["hello"]}', ["line 1, message 1 of 'messages'", "not str"]),
        ('{"messages": [{"content": "hello"}]}', ["message 1 of 'messages': lacks a 'role'"]),
        (
            '{"messages": [{"role": "usr", "content": "hello"}]}',
            ["the role 'usr' is unknown", "did you mean 'user'?"],
        ),
        ('{"messages": [{"role": "user"}]}', ["'content' must be text"]),
        ('{"messages": [{"role": "user", "content": "a"}]}', ["no message of the role 'assistant'"]),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}',
            ["line 1, message 2: the assistant's answer is empty"],
        ),
        ('{"prompt": [{"role": "user", "content": "a"}], "completion": "b"}', ["must both be text or both be lists"]),
        (
            '{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "user", "content": "b"}]}',
            ["the last message of 'completion' must be an answer"],
        ),
        ('{"messages": [], "tools": [1]}', ["entry 1 of 'tools' is no function"]),
    ],
)
def test_trl_rows(content: str, parts: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(content + "\n")
    message = message_of(["mine.jsonl"], tmp_path)
    assert str(tmp_path / "mine.jsonl") in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ({"eval": "mine.jsonl"}, "'eval' is an lm-eval name or YAML"),
        ({"test": "mine.jsonl"}, "'test' is the training file itself"),
        ({"test": "tset.jsonl"}, "no such file"),
        ({"data_dir": "."}, "'data_dir' is for task YAMLs"),
    ],
)
def test_trl_entries(extra: dict[str, str], part: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(f"{PAIR}\n{PAIR}\n")
    assert part in message_of([{"task": "mine.jsonl", **extra}], tmp_path)


def test_a_broken_array_and_a_broken_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"prompt": "a", "completion": "b"},\n {"prompt": }]')
    assert "a.json, line 2: not JSON" in message_of(["a.json"], tmp_path)
    (tmp_path / "b.json").write_text('[{"prompt": "a", "completion": "b"}, 3]')
    assert "b.json, entry 2: a JSON object is wanted, not int" in message_of(["b.json"], tmp_path)
    (tmp_path / "c.parquet").write_text("hello")
    assert "c.parquet: not a Parquet file" in message_of(["c.parquet"], tmp_path)


def test_no_tasks(tmp_path: Path) -> None:
    assert "name at least one" in message_of([], tmp_path)


@pytest.mark.parametrize("prompts", [["a"], ["a", "b"], ["a"] * 20])
def test_a_share_that_cannot_be_held_out_is_told_before_anything_is_trained(prompts: list[str], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "few.jsonl", [{"prompt": prompt, "completion": "this"} for prompt in prompts])
    with pytest.raises(UserError, match=r"few\.jsonl: `test: 0\.25` cannot be met"):
        load_tasks([{"task": "few.jsonl", "test": 0.25}], tmp_path)
    if len(prompts) == 1:
        with pytest.raises(UserError, match=r"few\.jsonl: `validation: 0\.25` cannot be met"):
            load_tasks([{"task": "few.jsonl", "validation": 0.25}], tmp_path)
