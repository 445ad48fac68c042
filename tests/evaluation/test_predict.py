"""Predictions are the answers that the task's score counts: by its metric, of the documents that it makes of rows."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loraweave.errors import UserError
from loraweave.evaluation import evaluate
from loraweave.evaluation.lm import LoadedModel
from loraweave.evaluation.predict import predict_rows
from loraweave.evaluation.samples import Sample
from loraweave.tasks import Task, load_tasks
from loraweave.tasks.chat import render

YAML = """\
task: kind
dataset_path: json
dataset_kwargs: {{data_files: {{train: train.jsonl, test: test.jsonl}}}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{what}}}} is"
doc_to_choice: ["a bird that sings", "fish", "größer", "an ox"]
doc_to_target: {target}
metric_list: [{{metric: {metric}}}]
{more}
"""
ROWS = [{"what": f"{a}{b}", "kind": (i + j) % 4} for i, a in enumerate("abcdefg") for j, b in enumerate("uvwxyz")]
PROCESS = """\
def document(row):
    return {"what": row["what"], "gold": row["kind"]}

def by(rows):
    return rows.map(document, remove_columns=["kind"]).sort("what", reverse=True)

def some(rows):
    return rows.filter(lambda row: row["what"] != "au")
"""


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., Task]:
    def make(metric: str = "acc", target: str = "kind", more: str = "") -> Task:
        for name, rows in (("train", ROWS[:8]), ("test", ROWS)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "kind.yaml").write_text(YAML.format(metric=metric, target=target, more=more))
        (tmp_path / "process.py").write_text(PROCESS)
        return load_tasks(["kind.yaml"], base_dir=tmp_path, trust_code=True)[0]

    return make


@pytest.fixture
def lm(base: tuple) -> LoadedModel:
    return LoadedModel(*base, 8)


@pytest.mark.parametrize("metric", ["acc", "acc_norm", "acc_bytes", "acc_mutual_info"])
def test_a_prediction_is_the_choice_that_the_metric_counts(make_task, lm, metric):
    task = make_task(metric)
    samples: dict[str, list[Sample]] = {}
    score = evaluate(lm.model, lm.tokenizer, [task], keep=samples.__setitem__)["kind"]
    assert score["metric"] == metric
    found = [each["prediction"] for each in predict_rows(lm, task, ROWS)]
    assert [sample["prediction"] for sample in samples["kind"]] == found
    choices = task.lm_eval.doc_to_choice(ROWS[0])
    right = [text == choices[row["kind"]] for text, row in zip(found, ROWS, strict=True)]
    assert [sample["outcome"] for sample in samples["kind"]] == [100.0 * each for each in right]
    likeliest = [max(each["scores"], key=each["scores"].get) for each in predict_rows(lm, task, ROWS)]
    assert (found == likeliest) == (metric == "acc")


def test_choices_are_those_of_the_document_that_the_task_makes(make_task, lm):
    task = make_task("acc", "gold", "process_docs: !function process.by")
    task.lm_eval.config.doc_to_choice = '{{["a bird that sings", "fish", "größer", what]}}'
    plain = make_task("acc", "kind")
    plain.lm_eval.config.doc_to_choice = '{{["a bird that sings", "fish", "größer", what]}}'
    found = predict_rows(lm, task, ROWS)
    assert found == predict_rows(lm, plain, ROWS)  # each row's own, however the task orders its documents
    assert found[5] == predict_rows(lm, task, ROWS[5:6])[0]


def test_choices_by_columns_that_only_documents_have(make_task, lm):
    task = make_task("acc", "gold", "process_docs: !function process.by")
    task.lm_eval.config.doc_to_choice = "{{[what, 'kind ' ~ gold]}}"
    task.lm_eval.config.doc_to_target = "0"
    found = predict_rows(lm, task, ROWS[:3])
    assert [list(each["scores"]) for each in found] == [[row["what"], f"kind {row['kind']}"] for row in ROWS[:3]]


def test_a_row_that_the_task_leaves_out_has_no_prediction(make_task, lm):
    task = make_task(more="process_docs: !function process.some")
    with pytest.raises(UserError, match="row 11: process_docs makes 0 documents of it, where one is to be answered"):
        predict_rows(lm, task, ROWS[:2], first=11)
    assert len(predict_rows(lm, task, ROWS[1:3])) == 2


def test_a_row_that_process_docs_cannot_read_is_named(make_task, lm):
    task = make_task("acc", "gold", "process_docs: !function process.by")
    with pytest.raises(UserError, match=r"row 2: the templates of the task 'kind' fail: .*what"):
        predict_rows(lm, task, [ROWS[0], {"kind": 1}])


def test_a_column_called_prompt_belongs_to_the_templates(make_task, lm, tmp_path):
    make_task()
    yaml = (tmp_path / "kind.yaml").read_text().replace("{{what}}", "{{prompt}}")
    (tmp_path / "kind.yaml").write_text(yaml)
    rows = [{"prompt": row["what"], "kind": row["kind"]} for row in ROWS]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows[: len(rows) - (name == "train")])
        )
    (task,) = load_tasks(["kind.yaml"], base_dir=tmp_path)
    assert predict_rows(lm, task, rows[:3]) == predict_rows(lm, make_task(), ROWS[:3])


def test_a_chat_is_asked_with_its_functions(lm, tmp_path, monkeypatch):
    lm.tokenizer.chat_template = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    talk = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "No."}]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": talk, "tools": tools}) + "\n")
    (task,) = load_tasks(["chats.jsonl"], base_dir=tmp_path)
    asked = []
    monkeypatch.setattr(lm, "generate_until", lambda requests: [asked.append(each.args[0]) or "" for each in requests])
    predict_rows(lm, task, [{"messages": talk, "tools": tools}, {"messages": talk}])
    (example,) = task.training_examples()
    assert asked == [render(example, lm.tokenizer).prompt, "<user>Rain?</s><assistant>"]
