"""One object for an adapter: it predicts what an evaluation scores, and answers as `generate` does."""

import json
import threading
from pathlib import Path

import pytest
from tiny_project import TASKS, write_project
from tiny_runs import NAMES, SMALL, random_run

import loraweave
from loraweave import UserError
from loraweave.evaluation import evaluate
from loraweave.evaluation.loaded import _until

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def run(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_run(project, {"name": "mtllora", **SMALL}, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def loaded(run: Path) -> loraweave.Loaded:
    return loraweave.load(run)


def rows_of(project: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (project / name).read_text().splitlines()]


def test_labels_are_ranked_as_an_evaluation_ranks_them(project, loaded):
    rows = rows_of(project, "parity_test.jsonl")
    found = loaded.predict("parity", rows)
    right = [each["prediction"] == row["label"] for each, row in zip(found, rows, strict=True)]
    score = evaluate(loaded.model, loaded.tokenizer, [loaded.task("parity")])["parity"]
    assert 100 * sum(right) / len(right) == pytest.approx(score["score"])
    for each in found:
        assert set(each["scores"]) == {"even", "odd"}
        assert each["scores"][each["prediction"]] == max(each["scores"].values())
    unlabelled = [{key: value for key, value in row.items() if key != "label"} for row in rows]
    assert loaded.predict("parity", unlabelled) == found


def test_text_is_written_with_the_tasks_stop_rules_and_filter(project, loaded):
    rows = rows_of(project, "double_test.jsonl")
    found = [each["prediction"] for each in loaded.predict("double", rows)]
    right = [text == row["word"] * 2 for text, row in zip(found, rows, strict=True)]
    score = evaluate(loaded.model, loaded.tokenizer, [loaded.task("double")])["double"]
    assert 100 * sum(right) / len(right) == pytest.approx(score["score"])
    assert not any(" " in text or "\n" in text for text in found)


def test_a_plain_file_is_answered_from_its_prompts(loaded):
    (found,) = loaded.predict("notes", [{"prompt": "Note 1:", "completion": "never looked at"}])
    assert found["prediction"] == loaded.generate("notes", "Note 1:")


def test_each_task_speaks_for_itself(loaded):
    assert loaded.tasks == NAMES
    said = {task: loaded.generate(task, "Double abx:", max_new_tokens=12) for task in NAMES}
    assert len(set(said.values())) == 3
    assert loaded.generate("parity", ["Double abx:", "Note 1:"], max_new_tokens=12)[0] == said["parity"]
    with loraweave.task(loaded.model, "double"):
        ids = loaded.tokenizer("Double abx:", return_tensors="pt").input_ids
        plain = loaded.model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert loaded.tokenizer.decode(plain, skip_special_tokens=True) == said["double"]


def test_streamed_pieces_are_the_same_text(loaded):
    whole = loaded.generate("notes", "Note 1:", max_new_tokens=16)
    assert "".join(loaded.stream("notes", "Note 1:", max_new_tokens=16)) == whole
    base = "".join(loaded.stream("notes", "Note 1:", max_new_tokens=16, adapter=False))
    assert base != whole
    assert threading.active_count() < 10


def test_chats_go_through_the_template(run):
    loaded = loraweave.load(run)
    with pytest.raises(UserError, match="template"):
        loaded.generate("notes", [{"role": "user", "content": "Hello"}])
    loaded.tokenizer.chat_template = CHAT
    messages = [{"role": "user", "content": "Hello"}]
    text = loaded.generate("notes", messages, max_new_tokens=8)
    assert text == loaded.generate("notes", "<user>Hello</s><assistant>", max_new_tokens=8)
    assert "".join(loaded.stream("notes", messages, max_new_tokens=8)) == text
    with pytest.raises(UserError, match="one kind"):
        loaded.generate("notes", [messages, "text"])


@pytest.mark.parametrize(
    ("pieces", "text"),
    [(["abc"], "abc"), (["ab<", "/", "end>cd"], "ab"), (["a<", "b"], "a<b"), (["a</end", ">"], "a"), (["a</"], "a</")],
)
def test_a_turns_end_in_pieces_is_found(pieces, text):
    assert "".join(_until(iter(pieces), "</end>")) == text


def test_what_is_wrong_is_said(project, loaded, run, tmp_path):
    with pytest.raises(UserError, match="did you mean 'double'"):
        loaded.generate("duoble", "x")
    with pytest.raises(UserError, match="say which, one of parity, double, notes"):
        loaded.generate(None, "x")
    with pytest.raises(UserError, match=r"row 2: the templates of the task 'parity' fail.*number"):
        loaded.predict("parity", [{"number": 1}, {"nmber": 1}])
    with pytest.raises(UserError, match="row 1: neither"):
        loaded.predict("notes", [{"completion": "x"}])
    with pytest.raises(UserError, match="holds no run, no adapter and no model"):
        loraweave.load(tmp_path)


def test_an_adapter_alone_answers_and_predicts_with_its_tasks_named(project, run, loaded, tmp_path, monkeypatch):
    alone = loraweave.load(run / "adapter")
    assert alone.generate("notes", "Note 1:") == loaded.generate("notes", "Note 1:")
    with pytest.raises(UserError, match="nothing says what the task"):
        alone.predict("parity", [{"number": 1}])
    monkeypatch.chdir(project)
    named = loraweave.load(run / "adapter", tasks=TASKS[:1])
    assert named.predict("parity", [{"number": 1}]) == loaded.predict("parity", [{"number": 1}])


def test_exports_load_too(project, run, loaded, tmp_path):
    from loraweave.export import export

    said = loaded.generate("double", "Double abx:", max_new_tokens=8)
    for to in ("lora", "merged"):
        export(run, to, tmp_path / to, tasks=["double"])
        assert loraweave.load(tmp_path / to / "double").generate(None, "Double abx:", max_new_tokens=8) == said
