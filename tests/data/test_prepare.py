"""The rows of a run, and what a person is told about the data before the first step."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_tasks
from rich.console import Console
from torch import nn

from loraweave.data.mixture import MixtureConfig
from loraweave.data.notices import Cut, check_cuts
from loraweave.data.prepare import RunData, prepare
from loraweave.data.schedule import Schedule
from loraweave.errors import UserError
from loraweave.tasks import load_tasks

Prepared = Callable[..., tuple[RunData, str]]


@pytest.fixture
def prepared(tiny_model: Callable[..., nn.Module]) -> Prepared:
    """The data of files, prepared for a run of one epoch, and what was said about them."""

    def build(files: list[Any], folder: Path, tokenizer: Any, max_length: int = 64, cut_prompts: bool = False) -> Any:
        said = io.StringIO()
        data, _, _ = prepare(
            load_tasks(files, folder),
            tokenizer,
            tiny_model(),
            MixtureConfig(),
            Schedule(rows_per_step=1, epochs=1),
            max_length=max_length,
            packing=False,
            validate=False,
            cut_prompts=cut_prompts,
            seed=0,
            console=Console(file=said, width=200),
        )
        return data, said.getvalue()

    return build


def chat(*contents: str) -> dict[str, Any]:
    """A conversation: what the system says, the user, and the assistant."""
    roles = ("system", "user", "assistant")[-len(contents) :]
    return {"messages": [{"role": role, "content": said} for role, said in zip(roles, contents, strict=True)]}


def test_folded_system_messages_are_said_once(tmp_path: Path, prepared: Prepared) -> None:
    tokenizer = tiny_tasks.make_tokenizer("chat")
    tiny_tasks.write_jsonl(tmp_path / "loud.jsonl", [chat("Loud.", "Hi", "HI")] * 3)
    tiny_tasks.write_jsonl(tmp_path / "bare.jsonl", [chat("Hi", "Ho")] * 3)
    assert "system messages" not in prepared(["loud.jsonl", "bare.jsonl"], tmp_path, tokenizer)[1]
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + (
        tokenizer.chat_template
    )
    said = prepared(["loud.jsonl", "bare.jsonl"], tmp_path, tokenizer)[1]
    assert said.count("the chat template takes no system messages; they become a part of the user's turn: loud") == 1


def test_a_scored_chat_that_the_template_refuses_is_told_before_training(tmp_path: Path, prepared: Prepared) -> None:
    tokenizer = tiny_tasks.make_tokenizer("chat")
    tokenizer.chat_template = (
        "{% if messages[0].content == 'Hum' %}{{ raise_exception('not in here') }}{% endif %}" + tokenizer.chat_template
    )
    tiny_tasks.write_jsonl(tmp_path / "mine.jsonl", [chat(f"Hi {number}", "Ho") for number in range(9)])
    tiny_tasks.write_jsonl(tmp_path / "scored.jsonl", [chat("Hey", "Ho"), chat("Hum", "Ho")])
    with pytest.raises(UserError, match=r"scored\.jsonl, line 2: .*refuses the messages: not in here"):
        prepared([{"task": "mine.jsonl", "test": "scored.jsonl"}], tmp_path, tokenizer)
    (tmp_path / "scored.jsonl").unlink()
    tiny_tasks.write_jsonl(tmp_path / "scored.jsonl", [chat("Hey", "so " * 90)])  # the length is no fault of a score
    prepared([{"task": "mine.jsonl", "test": "scored.jsonl"}], tmp_path, tokenizer)


def pairs(count: int, long: int, words: int = 60) -> list[dict[str, str]]:
    """Prompts and completions; the first `long` of the prompts have so many words."""
    return [
        {"prompt": f"Task {n}: " + "again " * (words if n < long else 1), "completion": f" number {n}"}
        for n in range(count)
    ]


def test_cut_prompts_are_said_and_stand_in_the_mixture(tmp_path: Path, prepared: Prepared) -> None:
    rows = [*pairs(20, long=4), {"prompt": "Say a lot:", "completion": " lots" * 90}]
    tiny_tasks.write_jsonl(tmp_path / "some.jsonl", rows)
    tiny_tasks.write_jsonl(tmp_path / "none.jsonl", pairs(20, long=0))
    tasks = [{"task": f"{name}.jsonl", "test": f"{name}.jsonl.test"} for name in ("some", "none")]
    for task in tasks:
        held_out = [{**row, "prompt": f"Scored {row['prompt']}"} for row in pairs(3, long=0)]
        tiny_tasks.write_jsonl(tmp_path / f"{task['task']}.test", held_out)
        (tmp_path / f"{task['task']}.test").rename(tmp_path / f"test_{task['task']}")
        task |= {"test": f"test_{task['task']}", "validation": f"test_{task['task']}"}
    data, said = prepared(tasks, tmp_path, tiny_tasks.make_tokenizer("start"))
    assert (
        "some: 4 of 21 prompts lose their beginning: with their answer they are longer than 64 tokens, train.max"
        in said
    )
    assert "some: 1 examples left out, their answer is longer than 64 tokens" in said
    assert not re.search(r"none: .*(beginning|longer than)", said)
    drawn = data.realised(data.training.tasks * 0 + 1)
    assert [(row["task"], row["available"], row["cut"], row["dropped"]) for row in drawn] == [
        ("some", 20, 4, 1),
        ("none", 20, 0, 0),
    ]


def test_most_prompts_cut_is_an_error_unless_asked_for(tmp_path: Path, prepared: Prepared) -> None:
    tiny_tasks.write_jsonl(tmp_path / "mine.jsonl", pairs(40, long=40))
    tokenizer = tiny_tasks.make_tokenizer("start")
    with pytest.raises(UserError, match=r"\(task 'mine' \d+ of \d+\): raise train.max_length .*`cut_prompts: true`"):
        prepared(["mine.jsonl"], tmp_path, tokenizer)
    said = prepared(["mine.jsonl"], tmp_path, tokenizer, max_length=1000, cut_prompts=True)[1]
    assert "longer than 64 tokens, what the model can read" in said


WRITING = """
task: writing
dataset_path: json
dataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}
training_split: train
test_split: test
output_type: generate_until
doc_to_text: "{{text}}:"
doc_to_target: "{{answer}}"
target_delimiter: " "
generation_kwargs: {until: ["\\n", "."], max_gen_toks: 12}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def test_answers_that_are_too_long_are_not_called_cut_prompts() -> None:
    with pytest.raises(UserError, match=r"or are left out, for their answer alone is longer \(task 'a' 9 of 10\)"):
        check_cuts([Cut("a", 10, cut=1, dropped=8)], 32)


def test_right_answers_that_no_model_can_write_are_said(tmp_path: Path, prepared: Prepared) -> None:
    answers = ["fine", "two\nlines", "a. b", "x" * 60, "fine too"]
    tiny_tasks.write_jsonl(tmp_path / "train.jsonl", [{"text": f"t{n}", "answer": "fine"} for n in range(5)])
    tiny_tasks.write_jsonl(tmp_path / "test.jsonl", [{"text": "t", "answer": answer} for answer in answers])
    (tmp_path / "writing.yaml").write_text(WRITING)
    said = prepared(["writing.yaml"], tmp_path, tiny_tasks.make_tokenizer("start"))[1]
    assert "writing: no model can write the right answer to 2 of 5 test examples: it holds '\\n', where writing" in said
    assert "to 1 of 5 test examples: it is longer than 12 tokens (generation_kwargs.max_gen_toks)" in said
    (tmp_path / "writing.yaml").write_text(WRITING.replace('["\\n", "."], max_gen_toks: 12', "[], max_gen_toks: 64"))
    said = prepared(["writing.yaml"], tmp_path, tiny_tasks.make_tokenizer("start"))[1]
    assert "no model can" not in said
    assert "writing: exact_match finds the right answers wrong as they are learned, ' " in said  # no filter, a space


def test_one_right_answer_that_can_be_written_is_enough(tmp_path: Path, prepared: Prepared) -> None:
    rows = [{"text": f"t{n}", "answer": ["two\nlines", "fine"]} for n in range(5)]
    tiny_tasks.write_jsonl(tmp_path / "train.jsonl", rows)
    tiny_tasks.write_jsonl(tmp_path / "test.jsonl", rows)
    (tmp_path / "writing.yaml").write_text(WRITING.replace('"{{answer}}"', "answer"))
    assert "no model can" not in prepared(["writing.yaml"], tmp_path, tiny_tasks.make_tokenizer("start"))[1]


def test_special_tokens_that_stand_in_words_are_said(tmp_path: Path, prepared: Prepared) -> None:
    tokenizer = tiny_tasks.make_tokenizer("chat")
    rows = [chat(f"Question {n}", "yes") for n in range(6)]
    rows[2] = chat("What ends a turn?", "It is <|im_end|> here.")
    tiny_tasks.write_jsonl(tmp_path / "some.jsonl", [rows[2]] * 4 + rows)
    tiny_tasks.write_jsonl(tmp_path / "none.jsonl", rows[:2] + rows[3:])
    tiny_tasks.write_jsonl(
        tmp_path / "own.jsonl", [{"prompt": f"<|im_start|>user {n}", "completion": "a"} for n in "xyz"]
    )
    said = " ".join(prepared(["some.jsonl", "none.jsonl", "own.jsonl"], tmp_path, tokenizer)[1].split())
    assert re.search(r"some: \d+ of \d+ examples hold a special token written out, such as '<\|im_end\|>'", said)
    assert said.count("special token") == 1


def test_an_answer_that_holds_the_end_of_its_turn_cannot_be_written(tmp_path: Path, prepared: Prepared) -> None:
    tokenizer = tiny_tasks.make_tokenizer("start")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<end>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tiny_tasks.write_jsonl(tmp_path / "train.jsonl", [{"text": f"t{n}", "answer": "fine"} for n in range(5)])
    tiny_tasks.write_jsonl(tmp_path / "test.jsonl", [{"text": "t", "answer": answer} for answer in ("a <end> b", "a")])
    (tmp_path / "writing.yaml").write_text(WRITING)
    said = prepared([{"task": "writing.yaml", "chat_template": True}], tmp_path, tokenizer)[1]
    assert (
        "writing: no model can write the right answer to 1 of 2 test examples: it holds '<end>', where writing" in said
    )


def test_a_validation_example_that_is_too_long_does_not_end_a_run(tmp_path: Path, prepared: Prepared) -> None:
    rows = [{"prompt": f"p{i}", "completion": "x"} for i in range(20)]
    tiny_tasks.write_jsonl(tmp_path / "mine.jsonl", rows)
    (task,) = load_tasks(["mine.jsonl"], tmp_path)
    (held_out,) = task.validation_examples()
    for row in rows:
        row["completion"] = "y" * 200 if row["prompt"] == held_out.prompt else "x"
    tiny_tasks.write_jsonl(tmp_path / "mine.jsonl", rows)
    data, said = prepared(["mine.jsonl"], tmp_path, tiny_tasks.make_tokenizer("start"))
    assert (len(data.training), data.validation) == (17, None)
    assert "mine: its one validation example left out, for the answer is longer than 64 tokens" in said
