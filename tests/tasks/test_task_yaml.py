"""A task file is data: what it names runs where it is trusted alone, and what it includes lies beside it."""

from collections.abc import Callable
from pathlib import Path

import lm_eval.tasks
import pytest

from loraweave.errors import UserError
from loraweave.tasks import load_tasks
from loraweave.tasks.harness import named_tasks
from loraweave.tasks.task_yaml import is_installed, read_task_yaml

WriteTask = Callable[..., Path]


def ran(folder: Path) -> bool:
    return (folder / "ran").exists()


@pytest.fixture
def task(write_task: WriteTask) -> Path:
    """A task, beside a module that leaves a file when it is imported."""
    path = write_task()
    (path.parent / "helpers.py").write_text(
        f"from pathlib import Path\nPath({str(path.parent / 'ran')!r}).touch()\n"
        "def loud(doc):\n    return doc['text'].upper()\n"
    )
    return path


def put(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('doc_to_text: "{{text}}\\nTopic:"', "doc_to_text: !function helpers.loud", "doc_to_text"),
        ("task: topic", "task: topic\ncustom_dataset: !function helpers.loud", "custom_dataset"),
        ("task: topic", "task: topic\nclass: !function helpers.loud", "class"),
        ("metric: acc", "metric: !function helpers.loud", "metric_list.metric"),
        ("task: topic", "task: topic\nfewshot_config: {samples: !function helpers.loud}", "fewshot_config.samples"),
    ],
)
def test_a_function_runs_only_where_it_is_trusted(old: str, new: str, key: str, task: Path) -> None:
    put(task, old, new)
    with pytest.raises(UserError) as caught:
        load_tasks(["topic.yaml"], task.parent)
    assert str(caught.value) == (
        f"{task}: {key} runs the function 'loud' of {task.parent / 'helpers.py'}: read it, and if you trust it, add "
        "--trust-code (or `trust_code: true` to your own run file)"
    )
    assert not ran(task.parent)
    read_task_yaml(task, trust_code=True)
    assert ran(task.parent)


def test_a_module_that_is_installed_is_a_function_too(task: Path) -> None:
    put(task, "task: topic", "task: topic\nprocess_docs: !function os.system")
    with pytest.raises(UserError, match=r"process_docs runs the function 'system' of the module 'os': read it"):
        load_tasks(["topic.yaml"], task.parent)


def test_functions_in_an_included_file_and_in_a_group_are_refused(task: Path) -> None:
    (task.parent / "child.yaml").write_text("include: topic.yaml\ntask: child\n")
    (task.parent / "all.yaml").write_text("group: all\ntask: [topic]\n")
    put(task, "task: topic", "task: topic\nprocess_docs: !function helpers.loud")
    for name in ("child.yaml", "all.yaml"):
        with pytest.raises(UserError, match="process_docs runs the function 'loud'"):
            load_tasks([name], task.parent)
    assert not ran(task.parent)


def test_what_lm_eval_ships_is_installed_code() -> None:
    shipped = Path(lm_eval.tasks.__file__).parent / "hellaswag" / "hellaswag.yaml"
    assert is_installed(shipped)
    assert callable(read_task_yaml(shipped)["process_docs"])
    with pytest.raises(UserError, match="downloaded once"):  # its code is no obstacle, its data are
        named_tasks("hellaswag")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("metric: zzqx", "lm-eval has no metric 'zzqx' at hand; one of the library evaluate is code"),
        ("metric: acc, hf_evaluate: true", "the metric 'acc' of the library evaluate is code"),
    ],
)
def test_a_metric_that_is_code(line: str, words: str, task: Path) -> None:
    put(task, "metric: acc", line)
    with pytest.raises(UserError, match=words):
        load_tasks(["topic.yaml"], task.parent)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("dataset_path: json", "dataset_path: sql", "dataset_path 'sql' does more than read a file"),
        ("dataset_kwargs: {", "dataset_kwargs: {cache_dir: /elsewhere, ", "dataset_kwargs.cache_dir decides where"),
        ("task: topic", "task: topic\nclass: builtins.print", "'class' must be a !function that names a class"),
    ],
)
def test_what_acts_without_a_function(old: str, new: str, words: str, task: Path) -> None:
    put(task, old, new)
    with pytest.raises(UserError, match=words):
        load_tasks(["topic.yaml"], task.parent)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("include: 3", "'include' must be the path of a task file, or a list of paths, not 3"),
        ("include: [topic.yaml, [x]]", "or a list of paths"),
        ("include: /etc/hostname", "includes /etc/hostname, which lies outside"),
        ("include: ../../other.yaml", "which lies outside"),
        ("include: nowhere.yaml", "includes .*nowhere.yaml, which is not there"),
        ("include: itself.yaml", "includes .*itself.yaml, which includes it in turn"),
        ("include: .", "which is not there"),
        ('include: "a\\0b"', "which is no path"),
        ("include: ~nobody_of_this_name/x.yaml", "which is no path"),
    ],
)
def test_includes(line: str, words: str, task: Path) -> None:
    path = task.parent / "itself.yaml"
    path.write_text(f"{line}\ntask: itself\n")
    with pytest.raises(UserError, match=words) as caught:
        load_tasks(["itself.yaml"], task.parent)
    assert str(caught.value).startswith(str(path))


def test_a_file_beside_the_tasks_folder_may_be_included_and_one_elsewhere_if_trusted(task: Path) -> None:
    (task.parent / "tasks" / "deep").mkdir(parents=True)
    near, far = task.parent / "tasks" / "near.yaml", task.parent / "tasks" / "deep" / "far.yaml"
    near.write_text("include: ../topic.yaml\ntask: near\n")
    far.write_text("include: ../../topic.yaml\ntask: far\n")
    assert read_task_yaml(near)["output_type"] == "multiple_choice"
    with pytest.raises(UserError, match="lies outside"):
        read_task_yaml(far)
    assert read_task_yaml(far, trust_code=True)["task"] == "far"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "line 1: not YAML: exceeded maximum nesting depth"),
        ("- " * 100_000, "not YAML: exceeded maximum nesting depth"),
        (f"task: {'9' * 5000}", "not YAML: Exceeds the limit"),
        ("task: 2024-13-45", "not YAML: month must be in"),
        ("", "a mapping of keys to values is wanted, not nothing"),
        ("a: !!python/object/apply:os.system [x]", "not YAML: could not determine a constructor"),
        ("? [a]\n: b", "not YAML: found unhashable key"),
        ("a: &a [*a]", "its aliases .* stand for millions of values"),
        ("a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)), "of values"),
    ],
)
def test_files_that_are_no_task(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(UserError, match=words):
        read_task_yaml(tmp_path / "a.yaml")
