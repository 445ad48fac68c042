"""`loraweave check`: all that is wrong at once, with its place, and nothing trained, written or loaded."""

import json
from pathlib import Path

import pytest
from tiny_project import write_project, write_run_file

from loraweave.bases import load as load_module
from loraweave.cli.app import run
from loraweave.errors import UserError
from loraweave.estimate.check import check


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = write_project(tmp_path / "project")
    write_run_file(folder)
    return folder


def written(project: Path, text: str) -> Path:
    path = project / "run.yaml"
    path.write_text(text)
    return path


def test_nothing_is_found_where_nothing_is_wrong(project: Path):
    before = sorted(project.rglob("*"))
    found = check(project / "run.yaml")
    assert (found.problems, found.unknown) == ([], [])
    assert [each.name for each in found.data] == ["notes", "notes_test"]
    assert sorted(project.rglob("*")) == before


def test_no_weights_are_read(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(load_module.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    assert check(project / "run.yaml").problems == []


def test_everything_is_told_at_once_each_with_its_place(project: Path):
    lines = (project / "notes.jsonl").read_text().splitlines()
    lines[3] = '{"prompt": "Note", "completion": ""}'
    lines[7] = '{"prompt": "Note" "completion": "x"}'
    (project / "notes.jsonl").write_text("\n".join(lines) + "\n")
    rows = [json.loads(line) for line in (project / "parity_train.jsonl").read_text().splitlines()]
    rows[5].pop("number")
    rows[9].pop("number")
    (project / "parity_train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = written(
        project,
        "model: {name: base, dtype: float17}\n"
        "method: {name: lora, rr: 3, target_modules: [q_prj]}\n"
        "tasks:\n"
        "  - parity.yaml\n"
        "  - notes.jsonl\n"
        "  - {task: double.yaml, tset: 3}\n"
        "  - nowhere.jsonl\n"
        "mixture: {strategy: weights, weights: {parity: 1, nots: 2}}\n"
        "train: {learning_rte: 1, max_length: 0}\n",
    )
    problems = check(path).problems
    for words in (
        f"{path}:1: model.dtype: Input should be",
        f"{path}:2: method lora: unknown field 'rr', did you mean 'r'?",
        f"{path}:6: tasks: unknown key 'tset', did you mean 'test'?",
        f"{path}:9: train.learning_rte is not a Hugging Face training argument, did you mean 'learning_rate'?",
        f"{path}:9: train.max_length must be from 1 to 1,048,576, got 0",
        f"{project}/notes.jsonl, line 4: the completion is empty",
        f"{project}/notes.jsonl, line 8: not JSON",
        f"{project}/parity_train.jsonl, line 6: lacks the field 'number'",
        f"{project}/parity_train.jsonl, line 10: lacks the field 'number'",
        f"{path}:7: no such file: {project}/nowhere.jsonl",
    ):
        assert sum(line.startswith(words) for line in problems) == 1, (words, problems)
    assert len(problems) == 10


@pytest.mark.parametrize("method", ["lora", "mtllora"])
def test_a_name_that_two_tasks_have_is_told(project: Path, method: str):
    tasks = "tasks:\n  - parity.yaml\n  - notes.jsonl\n  - {task: notes_test.jsonl, name: notes}\n"
    problems = check(written(project, f"model: base\nmethod: {method}\n{tasks}")).problems
    assert len(problems) == 1
    assert "two tasks are called 'notes'" in problems[0]


def test_what_is_not_trained_for_is_looked_at_too(project: Path):
    (project / "story.txt").write_text("Once upon a time.")
    (project / "empty.txt").write_text("")
    things = "".join(f"    - {name}\n" for name in ("story.txt", "empty.txt", "nowhere.txt", "parity.yaml", "boolq"))
    path = written(project, f"model: base\nmethod: lora\ntasks: [parity.yaml]\neval:\n  forgetting:\n{things}")
    found = check(path)
    assert [line.partition(": ")[0] for line in found.problems] == [
        f"{path}:7",
        f"{path}:8",
        f"{path}:9",
    ]
    assert any(line.startswith("eval.forgetting, boolq: its data are not at hand") for line in found.unknown)


def test_what_is_held_out_is_read_as_what_is_learned(project: Path):
    """A file that is scored may hold one label alone."""
    rows = [{"text": f"t{n}", "label": ("bad", "good")[n % 2]} for n in range(20)]
    for name, some in (("labels", rows), ("held", [{"text": f"u{n}", "label": "good"} for n in range(4)])):
        (project / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    text = "model: base\ntasks:\n  - {task: labels.jsonl, test: held.jsonl}\ntrain: {max_length: 64}\n"
    assert check(written(project, text)).problems == []
    with (project / "held.jsonl").open("a") as file:
        file.write('{"text": "u9", "label": "so so"}\n')
    (problem,) = check(written(project, text)).problems
    assert "held.jsonl, line 5: the label 'so so' is not among the choices: 'bad', 'good'" in problem


def test_a_task_file_is_told_line_by_line(project: Path):
    text = (project / "parity.yaml").read_text()
    lines = text.replace("test_split", "tset_split").replace("metric: acc", "metric: accc").splitlines()
    (project / "parity.yaml").write_text("\n".join(lines) + "\n")
    path = written(project, "model: base\nmethod: lora\ntasks: [parity.yaml]\n")
    where = {line.partition(":")[0]: number for number, line in enumerate(lines, start=1)}
    file = project / "parity.yaml"
    assert check(path).problems == [
        f"{file}, line {where['tset_split']}: unknown key 'tset_split', did you mean 'test_split'?",
        f"{file}, line {where['metric_list']}: lm-eval has no metric 'accc' at hand, did you mean 'acc'?",
        f"{file}: lacks 'test_split' (or 'validation_split'): which split the task is evaluated on",
    ]


def test_what_shows_only_on_the_base_is_told(project: Path):
    path = written(
        project,
        "model: base\nmethod: {name: lora, target_modules: [q_prj]}\ntasks: [parity.yaml, notes.jsonl]\n"
        "mixture: {strategy: weights, weights: {parity: 1, nots: 2}}\ntrain: {max_length: 8}\n",
    )
    problems = check(path).problems
    assert any(line.startswith(f"{path}:2: ") and "q_prj" in line for line in problems)
    assert any(line.startswith(f"{path}:4: ") and "'nots', did you mean 'notes'?" in line for line in problems)


def test_prompts_that_are_cut_are_a_problem_or_a_note(project: Path):
    path = written(project, "model: base\nmethod: lora\ntasks: [notes.jsonl]\ntrain: {max_length: 16}\n")
    (problem,) = check(path).problems
    assert problem.startswith(f"{path}:4: with 16 tokens at most, most prompts lose their beginning")
    found = check(path, ["cut_prompts=true"])
    assert found.problems == []
    assert any("prompts lose their beginning" in note for note in found.notes)


def test_every_chat_that_the_template_refuses_is_named(project: Path):
    asked = {"role": "user", "content": "Hi"}
    chats = [{"messages": [asked, {"role": "assistant", "content": str(n)}]} for n in range(9)]
    for n in (2, 5):
        chats[n]["messages"].insert(0, {"role": "assistant", "content": "first"})
    (project / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    (project / "scored.jsonl").write_text("\n" + json.dumps(chats[2]))
    template = (
        "{% for m in messages %}{% if loop.first and m['role'] == 'assistant' %}"
        "{{ raise_exception('begin with a user') }}{% endif %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    (project / "base" / "chat_template.jinja").write_text(template)
    path = written(
        project,
        "model: base\nmethod: lora\ntasks: [{task: chats.jsonl, test: scored.jsonl}]\ntrain: {max_length: 64}\n",
    )
    problems = check(path).problems
    places = [f"{project}/{place}" for place in ("chats.jsonl, line 6", "scored.jsonl, line 2")]
    assert [line.split(":")[0] for line in problems] == places  # the other asks what is scored
    assert all("begin with a user" in line for line in problems)


def test_what_shows_on_the_base_is_told_beside_rows_that_cannot_be_used(project: Path):
    said = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    lines = [json.dumps(said) if n != 2 else "{" for n in range(9)]
    (project / "chats.jsonl").write_text("\n".join(lines) + "\n")
    path = written(project, "model: base\nmethod: lora\ntasks: [chats.jsonl, notes.jsonl]\ntrain: {max_length: 64}\n")
    problems = check(path).problems
    assert problems[0].startswith(f"{project}/chats.jsonl, line 3: not JSON")
    assert len(problems) == 2
    assert "has no chat template" in problems[1]  # of all rows at once


def test_a_base_that_cannot_be_asked_for_is_not_a_problem(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(load_module.hub_settings, "HF_HUB_OFFLINE", True)
    path = written(project, "model: nobody/no-model\nmethod: lora\ntasks: [notes.jsonl]\n")
    found = check(path)
    assert found.problems == []
    assert any("nobody/no-model" in line for line in found.unknown)


def test_a_base_that_lacks_something_is_a_problem(project: Path):
    (project / "base" / "model.safetensors").unlink()
    (problem,) = check(project / "run.yaml").problems
    assert problem.startswith(f"{project}/run.yaml:1: ")
    assert "holds no weights" in problem


def test_a_folder_that_is_taken_is_a_note(project: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "other.txt").write_text("x")
    assert any("would be refused" in note for note in check(project / "run.yaml", [f"output={tmp_path}/out"]).notes)


def test_the_exit_code_says_whether_anything_is_wrong(project: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["check", str(project / "run.yaml")]) == 0
    assert "no problems found" in capsys.readouterr().out
    assert run(["check", str(project / "run.yaml"), "--set", "train.learning_rte=1"]) == 1
    said = capsys.readouterr().out
    assert "1 problem found" in said
    assert "--set 'train.learning_rte=1': train.learning_rte is not a Hugging Face training argument" in said
    assert run(["check", str(project / "none.yaml")]) == 2
    with pytest.raises(UserError, match="no such file"):
        check(project / "none.yaml")


def test_a_data_set_of_the_hub_that_is_not_at_hand_is_no_fault(project: Path):
    entry = "{task: owner/chats, split: {train: x}, test: notes_test.jsonl}"
    path = written(project, f"model: base\nmethod: lora\ntasks:\n  - {entry}\n")
    found = check(path)
    assert found.problems == []
    assert [line for line in found.unknown if "owner/chats" in line]
    assert [(seen.where, seen.rows > 0) for seen in found.data][1:] == [(str(project / "notes_test.jsonl"), True)]
