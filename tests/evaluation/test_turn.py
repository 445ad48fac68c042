"""A model that writes exactly what it was taught is scored 100, wherever its turns end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_chats import TEMPLATES, THINKING, thinking_tokenizer, tokenizer_of
from tiny_tasks import write_jsonl
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor, LogitsProcessorList

from loraweave.data.encode import encode
from loraweave.evaluation import evaluate
from loraweave.tasks import Task, load_tasks
from loraweave.tasks.data_task import DataTask

TASK = """
task: ask
dataset_path: json
dataset_kwargs: {data_files: {train: rows.jsonl, test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: answer
generation_kwargs: {until: ["@"], max_gen_toks: 60}
metric_list: [{metric: exact_match}]
"""
ROWS = [
    {"question": f"Which is {i}?", "answer": answer} for i, answer in enumerate(["no", "the brown fox", "a\nb", "1"])
]


class Taught(LogitsProcessor):
    """Goes on as the rows that were taught, and with a word of its own where a row ends."""

    def __init__(self, rows: list[list[int]], pad: int, more: int) -> None:
        self.rows, self.pad, self.more = rows, pad, more

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        for ids, row_scores in zip(input_ids.tolist(), scores, strict=True):
            seen = ids[next(i for i, token in enumerate(ids) if token != self.pad) :]
            following = next((row[len(seen)] for row in self.rows if row[: len(seen)] == seen != row), self.more)
            row_scores[following] = 1e9
        return scores


@pytest.fixture
def taught() -> Callable[[Task, Any, int], Any]:
    """A model that has learned a task's rows by heart."""

    def learn(task: Task, tokenizer: Any, eos: int) -> Any:
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=512, eos_token_id=eos, **shape))
        examples = task.training_examples() if isinstance(task, DataTask) else task.test_examples()
        rows = [encode(example, tokenizer, 256)["input_ids"] for example in examples]
        more = tokenizer.encode("again", add_special_tokens=False)[-1]
        plain, processors = model.generate, LogitsProcessorList([Taught(rows, tokenizer.pad_token_id, more)])
        model.generate = lambda *args, **how: plain(*args, logits_processor=processors, **how)
        return model

    return learn


@pytest.mark.parametrize("chats", [False, True])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("kind", ["bytes", "spaces", "ends"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_perfect_model_is_scored_as_one(
    template: str, kind: str, special: bool, chats: bool, tmp_path: Path, taught: Callable[..., Any]
) -> None:
    (tmp_path / "ask.yaml").write_text(TASK)
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    spec: Any = "ask.yaml"
    if chats:  # learned from messages as the template renders them, scored by lm-eval
        spec = {"task": "chats.jsonl", "eval": "ask.yaml", "name": "ask", "validation": "chats_too.jsonl"}
        turns = [[("user", row["question"]), ("assistant", row["answer"])] for row in ROWS]
        rows = [{"messages": [{"role": role, "content": content} for role, content in turn]} for turn in turns]
        write_jsonl(tmp_path / "chats.jsonl", rows)
        write_jsonl(tmp_path / "chats_too.jsonl", rows)
    (task,) = load_tasks([spec], tmp_path, chat_template=True)
    tokenizer = tokenizer_of(kind, template, special)
    score = evaluate(taught(task, tokenizer, tokenizer.eos_token_id), tokenizer, [task])["ask"]
    assert score["score"] == 100


def test_a_text_ends_for_each_row_by_itself_though_the_models_settings_name_no_end(
    tmp_path: Path, taught: Callable[..., Any]
) -> None:
    (tmp_path / "ask.yaml").write_text(TASK + 'target_delimiter: ""\n')
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    (task,) = load_tasks(["ask.yaml"], tmp_path)
    tokenizer = tokenizer_of("start", "none", special=False)
    score = evaluate(taught(task, tokenizer, None), tokenizer, [task])["ask"]
    assert score["score"] == 100


def test_the_case_of_a_turn_that_ends_with_words(shared: Path, tmp_path: Path, taught: Callable[..., Any]) -> None:
    (tmp_path / "ask.yaml").write_text(TASK)
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    (task,) = load_tasks(["ask.yaml"], tmp_path, chat_template=True)
    tokenizer = tokenizer_of("bytes", "none", special=False)
    tokenizer.chat_template = (shared / "cases" / "templates" / "no_system.jinja").read_text()
    assert evaluate(taught(task, tokenizer, tokenizer.eos_token_id), tokenizer, [task])["ask"]["score"] == 100


@pytest.mark.parametrize("chats", ["", "rows", "eval", "thoughts"])
@pytest.mark.parametrize("kind", ["bytes", "spaces"])
@pytest.mark.parametrize("template", THINKING)
def test_a_perfect_model_that_can_think_is_scored_as_one(
    template: str, kind: str, chats: str, tmp_path: Path, taught: Callable[..., Any]
) -> None:
    """Though its answers end with their line, and the template writes lines before them."""
    rows = [row for row in ROWS if "\n" not in row["answer"]]
    (tmp_path / "ask.yaml").write_text(TASK.replace("@", "\\n"))
    write_jsonl(tmp_path / "rows.jsonl", rows)
    spec: Any = "ask.yaml"
    if chats == "rows":
        spec = {"task": "rows.jsonl", "prompt": "question", "completion": "answer", "metric": "exact_match"}
        spec |= {"name": "ask", "test": "too.jsonl", "validation": "too.jsonl"}
        write_jsonl(tmp_path / "too.jsonl", [{**row, "question": row["question"] + "?"} for row in rows])
    elif chats:
        thought = {"reasoning_content": "Hm.\nSo it is."} if chats == "thoughts" else {}
        made = [
            [{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"], **thought}]
            for r in rows
        ]
        spec = {"task": "chats.jsonl", "eval": "ask.yaml", "name": "ask", "validation": "too.jsonl"}
        write_jsonl(tmp_path / "chats.jsonl", [{"messages": turns} for turns in made])
        write_jsonl(tmp_path / "too.jsonl", [{"messages": turns} for turns in made])
    (task,) = load_tasks([spec], tmp_path, chat_template=True)
    tokenizer = thinking_tokenizer(kind, template)
    if chats == "rows":
        task.training_examples = task.test_examples  # type: ignore[method-assign]
    assert task.thinks == (chats == "thoughts")
    score = evaluate(taught(task, tokenizer, tokenizer.eos_token_id), tokenizer, [task])["ask"]
    assert score["score"] == 100
