"""Data become tasks: what is learned from a row of each format, what scores it, and how rows are shared out."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny_tasks import task_of_rows, write_jsonl

from loraweave.errors import UserError
from loraweave.tasks import Example, Task, load_tasks
from loraweave.tasks.data_task import DataTask

USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
SING = "### Instruction:\nSing.\n\n### Response:\n"
TEMPLATES = {"prompt": "{{frage}}\n", "completion": "{{antwort}}"}


def everything(task: Task) -> list[Example]:
    return task.training_examples() + task.validation_examples() + task.test_examples()


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    ("row", "plain", "turn", "answer"),
    [
        (
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n",
            "Add.\n\n1 2",
            "3",
        ),
        (
            {"instruction": "Sing.", "input": "", "output": "La"},
            "### Instruction:\nSing.\n\n### Response:\n",
            "Sing.",
            "La",
        ),
        ({"instruction": "Sing.", "response": "La"}, "### Instruction:\nSing.\n\n### Response:\n", "Sing.", "La"),
        ({"question": "Who?", "answer": "Ann"}, "Who?\n", "Who?", "Ann"),
        ({"context": "Ann ran.", "question": "Who?", "answer": "Ann"}, "Ann ran.\nWho?\n", "Ann ran.\nWho?", "Ann"),
        ({"input": "x", "target": "y"}, "x\n", "x", "y"),
        ({"prompt": "x", "response": "y"}, "x\n", "x", "y"),
    ],
)
def test_questions_and_answers(
    row: dict[str, str], plain: str, turn: str, answer: str, chat: bool, tmp_path: Path
) -> None:
    other = {key: f"{value} else" if value else value for key, value in row.items()}
    task = task_of_rows(tmp_path, [row, other], chat_template=chat)
    prompt: Any = [{"role": "user", "content": turn}] if chat else plain
    completion: Any = [{"role": "assistant", "content": answer}] if chat else answer
    assert Example(prompt, completion) in everything(task)
    assert (task.lm_eval, task.chat_template) == (None, chat)


def test_sharegpt_is_read_as_messages(tmp_path: Path) -> None:
    call = {"name": "weather", "arguments": {"town": "Rome"}}
    tools = [{"name": "weather", "parameters": {"type": "object"}}]
    turns = [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "Sun.", "weight": 1},
    ]
    row = {"conversations": turns, "system": "Be brief.", "tools": json.dumps(tools)}
    task = task_of_rows(tmp_path, [row, {"conversations": [turns[0], turns[3]]}])
    assert task.chat_template is True
    found = sorted(everything(task), key=lambda example: (example.place, len(example.prompt)))
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "Sun.", "weight": 1},
    ]
    wanted = [{"type": "function", "function": tools[0]}]
    assert found[:2] == [Example(messages[:n], [messages[n]], tools=wanted) for n in (2, 4)]
    assert found[2] == Example(messages[1:2], messages[4:])


def test_alpaca_with_a_history_is_a_chat(tmp_path: Path) -> None:
    row = {"system": "Be brief.", "history": [["Hi.", "Hello."]], "instruction": "Add.", "input": "1 2", "output": "3"}
    task = task_of_rows(tmp_path, [row, {"instruction": "Sing.", "history": [], "input": "", "output": "La"}])
    assert (task.format.name, task.chat_template) == ("Alpaca with a history", True)
    contents = ["Be brief.", "Hi.", "Hello.", "Add.\n\n1 2", "3"]
    roles = ["system", "user", "assistant", "user", "assistant"]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    sing = Example([{"role": "user", "content": "Sing."}], [{"role": "assistant", "content": "La"}])
    assert sorted(everything(task), key=lambda e: (e.place, len(e.prompt))) == [
        Example(messages[:2], [messages[2]]),
        Example(messages[:4], [messages[4]]),
        sing,
    ]
    assert task.question({"instruction": "Sing."}, "row 1") == sing.prompt
    for history in ("Hi.", [["Hi."]], [[1, 2]]):
        with pytest.raises(UserError, match="line 1: 'history' must be a list of pairs"):
            task_of_rows(tmp_path, [{**row, "history": history}, row])


@pytest.mark.parametrize(
    ("turns", "part"),
    [
        ([{"from": "humann", "value": "a"}], "turn 1 of 'conversations': 'from' is 'humann', which is unknown"),
        ([{"from": ["human"], "value": "a"}], r"turn 1 of 'conversations': 'from' is \['human'\], which is unknown"),
        ([{"value": "a"}], "turn 1 of 'conversations': lacks 'from'"),
        ([{"from": "human"}], "turn 1 of 'conversations': lacks 'value'"),
        ([{"from": "human", "value": "a"}, {"from": "function_call", "value": "x("}], "turn 2 of .* must be JSON"),
        ([{"from": "human", "value": "a"}], "no message of the role 'assistant'"),
        ([], "must be a list of turns"),
        (["a"], "turn 1 of 'conversations': a turn with 'from' and 'value' is wanted, not str"),
    ],
)
def test_broken_sharegpt(turns: list[Any], part: str, tmp_path: Path) -> None:
    good = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    with pytest.raises(UserError, match=f"mine.jsonl, line 2.*{part}"):
        task_of_rows(tmp_path, [good, {"conversations": turns}])


def test_labels_are_ranked(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": i % 3} for i in range(60)]
    task = task_of_rows(tmp_path, rows, choices=["bad", "good", "so so"])
    assert Example("text 1\nLabel: ", "good", by_likelihood=True) in everything(task)
    assert task.lm_eval.OUTPUT_TYPE == "multiple_choice"
    assert list(task.lm_eval.aggregation()) == ["acc"]
    assert Counter(example.completion for example in task.test_examples()) == {"bad": 2, "good": 2, "so so": 2}
    doc = task.lm_eval.eval_docs[0]
    requests = task.lm_eval.construct_requests(doc, task.lm_eval.fewshot_context(doc, 0))
    assert [request.args for request in requests] == [(doc["prompt"], name) for name in ("bad", "good", "so so")]
    assert task.lm_eval.process_results(doc, [(0.0 if i == doc["gold"] else -1.0, True) for i in range(3)]) == {
        "acc": 1
    }


@pytest.mark.parametrize(
    ("labels", "choices", "names"),
    [
        (["b", "a", "b"], None, ["b", "a", "b"]),
        (["b ", "a", "b"], None, ["b", "a", "b"]),
        ([1, 0, 1], ["no", "yes"], ["yes", "no", "yes"]),
        (["1", "0", "1"], ["no", "yes"], ["yes", "no", "yes"]),
        ([True, False, True], ["no", "yes"], ["yes", "no", "yes"]),
        ([1.0, 0.0, 1.0], ["no", "yes"], ["yes", "no", "yes"]),
        ([1, 5, 1], {"1": "bad", "5": "good"}, ["bad", "good", "bad"]),
        ([1, 2, 1], ["1", "2", "3"], ["1", "2", "1"]),
        ([0, 1, 2, 0], ["1", "2", "3"], ["1", "2", "3", "1"]),
        ([1, 0, 2, 1], ["2", "1", "0"], ["1", "0", "2", "1"]),
        (["pos", "neg", "pos"], {"pos": "good", "neg": "bad"}, ["good", "bad", "good"]),
        (["b", "a", "b"], ["b", "c", "a"], ["b", "a", "b"]),
    ],
)
def test_how_labels_are_named(labels: list[Any], choices: Any, names: list[str], tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    task = task_of_rows(tmp_path, rows, **({"choices": choices} if choices else {}))
    found = {example.prompt: example.completion for example in everything(task)}
    assert found == {f"text {i}\nLabel: ": name for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("labels", "choices", "part"),
    [
        ([0, 1, 2], None, r"holds the numbers 0, 1, 2 without names: add choices: \[name of 0, name of 1, name of 2\]"),
        ([1, 5], None, r"holds the numbers 1, 5 without names: add choices: \{1: its name, 5: its name\}"),
        ([1, 2], ["a", "b"], "the numbers 1, 2, and there are 2 names, which stand for 0, 1 and so on"),
        ([-1, 1], ["a", "b"], "the numbers -1, 1, and there are 2 names"),
        ([0, 1, 0.5], ["a", "b"], "holds 0.5, and a label is a name or a whole number"),
        ([[1], [2]], ["a", "b"], "line 1: a label is a name or a whole number, not list"),
        (["a", "b", "Bx"], ["a", "bx"], "line 2: the label 'b' is not among the choices: 'a', 'bx'"),
        (["a", "a"], None, "every row has the label 'a'"),
        (["a", None, "b"], None, "line 2: lacks the field 'label' that completion uses"),
        (["a", " ", "b"], None, "line 2: the label ' ' is not among the choices: 'a', 'b'"),
        ([str(i) for i in range(99)], None, "holds the numbers 0 to 98 without names"),
        ([f"name {i}" for i in range(300)], None, "300 different labels, and at most 256 are ranked"),
        ([0, 1], {"0": "a", "2": "b"}, "line 2: the label 1 is not among the choices"),
    ],
)
def test_labels_that_are_none(labels: list[Any], choices: Any, part: str, tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]
    with pytest.raises(UserError, match=part):
        task_of_rows(tmp_path, rows, **({"choices": choices} if choices else {}))


def test_each_row_may_have_choices_of_its_own(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "options": [f"x{i}", f"y{i}"], "answer": i % 2} for i in range(6)]
    with pytest.raises(UserError, match=r'has \'question\', \'answer\' and \'options\'.*choices: "\{\{options\}\}"'):
        task_of_rows(tmp_path, rows)
    templates = {"prompt": "{{question}}? ", "completion": "{{answer}}", "choices": "{{options}}"}
    task = task_of_rows(tmp_path, rows, **templates)
    assert Example("q3? ", "y3", by_likelihood=True) in everything(task)
    lettered = task_of_rows(tmp_path, [{**row, "answer": "AB"[row["answer"]]} for row in rows], **templates)
    assert everything(lettered) == everything(task)
    with pytest.raises(UserError, match="line 1: the label 'C' is not among the choices: 'x0', 'y0'"):
        task_of_rows(tmp_path, [{**row, "answer": "C"} for row in rows], **templates)
    with pytest.raises(UserError, match="line 1: 'choices' must give a list"):
        task_of_rows(tmp_path, [{**row, "options": "x"} for row in rows], **templates)


def test_choices_that_are_numbers_are_their_own_names(tmp_path: Path) -> None:
    rows = [{"question": f"{i} and 1?", "options": ["1", "2", "3", "16"], "answer": "123"[i % 3]} for i in range(6)]
    templates = {"prompt": "{{question}} ", "completion": "{{answer}}", "choices": "{{options}}"}
    by_name = everything(task_of_rows(tmp_path, rows, **templates))
    assert all(each.completion == "123"[int(each.prompt[0]) % 3] for each in by_name)
    with pytest.raises(UserError, match="line 1: a label is a name or a whole number, not list"):
        task_of_rows(tmp_path, [{**row, "answer": [1]} for row in rows], **templates)
    numbers = [{**row, "answer": int(row["answer"])} for row in rows]
    with pytest.raises(UserError, match="label 1 may be number 1 of the choices, '2', or the choice '1'") as caught:
        task_of_rows(tmp_path, numbers, **templates)
    place, name = re.findall(r"'({{.*?}})'", str(caught.value))
    assert everything(task_of_rows(tmp_path, numbers, **templates | {"completion": name})) == by_name
    by_place = everything(task_of_rows(tmp_path, numbers, **templates | {"completion": place}))
    assert all(each.completion == ["2", "3", "16"][int(each.prompt[0]) % 3] for each in by_place)
    far = everything(task_of_rows(tmp_path, [{**row, "answer": 16} for row in rows], **templates))  # no place
    assert {each.completion for each in far} == {"16"}


def test_templates_over_any_columns(tmp_path: Path) -> None:
    rows = [{"frage": f"q{i}", "antwort": f"a{i}", "note": None} for i in range(40)]
    by_loss = task_of_rows(tmp_path, rows, **TEMPLATES)
    assert (by_loss.lm_eval, by_loss.format.name) == (None, "columns of its own")
    written = task_of_rows(tmp_path, rows, **TEMPLATES, metric="exact_match")
    assert everything(written) == everything(by_loss)
    assert Example("q7\n", "a7") in everything(written)
    assert written.lm_eval.config.generation_kwargs == {"until": ["\n"], "do_sample": False}
    doc = written.lm_eval.eval_docs[0]
    for answer, right in ((f" {doc['completion']}\n", 1), ("else", 0)):
        assert written.lm_eval.process_results(doc, [answer]) == {"exact_match": right}
    lines = task_of_rows(tmp_path, [{**row, "antwort": "one\ntwo"} for row in rows], **TEMPLATES, metric="exact_match")
    assert lines.lm_eval.config.generation_kwargs["until"] == []


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"prompt": "{{frage}}"}, "'prompt' is given and 'completion' is not"),
        ({**TEMPLATES, "prompt": "{{fragge}}"}, "the template of 'prompt' reads 'fragge'.*did you mean 'frage'"),
        ({**TEMPLATES, "completion": "antwrt"}, "reads 'antwrt'.*did you mean 'antwort'"),
        ({**TEMPLATES, "prompt": "{{frage"}, "line 1, prompt: the template '{{frage' does not parse"),
        ({**TEMPLATES, "prompt": "{{note}} {{frage}}"}, "line 1: lacks the field 'note' that prompt uses .it is empty"),
        ({**TEMPLATES, "prompt": "{{frage.__class__.mro()}}"}, "the sandbox that templates run in refuses it"),
        ({**TEMPLATES, "metric": "acc"}, "is scored by exact_match or bleu or chrf or ter or loss, not by 'acc'"),
        ({**TEMPLATES, "metric": "exact_mtch"}, "did you mean 'exact_match'"),
        ({**TEMPLATES, "choices": ["a0", "a1"]}, "line 3: the label 'a2' is not among the choices"),
        ({**TEMPLATES, "subset": "en"}, "'subset' is for data sets of the hub"),
        ({**TEMPLATES, "split": "train_sft"}, "'split' is for data sets with splits, of the hub or of `save_to_disk`"),
        ({**TEMPLATES, "choices": 3}, "choices: "),
        ({**TEMPLATES, "on_bad_row": "ignore"}, "on_bad_row: "),
    ],
)
def test_entries_that_do_not_fit(more: dict[str, Any], part: str, tmp_path: Path) -> None:
    rows = [{"frage": f"q{i}", "antwort": f"a{i}", "note": None if i == 0 else "x"} for i in range(5)]
    with pytest.raises(UserError, match=part):
        task_of_rows(tmp_path, rows, **more)


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"text": "a", "label": "b", "category": "c"}, None),  # the usual names win, and that is said
        ({"headline": "a", "label": "b"}, "fields 'headline', 'label'"),
        ({"review": "a", "comment": "b", "label": "c"}, "which is the text, 'review' or 'comment'?"),
        ({"text": "a", "topic": "b", "category": "c"}, "which is the label, 'topic' or 'category'?"),
        ({"text": "a", "stars": 3}, "has 'text' and 'stars': where one is a label write"),
        ({"instruction": "a", "output": {"x": 1}}, "the column 'output' holds no text but dict"),
        ({"chosen": "a", "rejected": "b"}, "fields 'chosen', 'rejected'"),
        ({"prompt": "a", "completion": "b", "chosen": "c"}, "'chosen' is not supported: pairs of answers are for DPO"),
        ({"prompt": "a", "response": "b", "image": "x.png"}, "'image' is not supported"),
    ],
)
def test_columns_that_leave_it_open(row: dict[str, Any], part: str | None, tmp_path: Path) -> None:
    rows = [{key: f"{value}{i}" if isinstance(value, str) else value for key, value in row.items()} for i in range(3)]
    if part is None:
        assert "'text' is taken for the text and 'label' for its label" in task_of_rows(tmp_path, rows).notes
        return
    with pytest.raises(UserError, match=part):
        task_of_rows(tmp_path, rows)


def test_bad_rows_are_skipped_where_that_is_asked_for(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completion": f"c{i}" if i != 4 else " "} for i in range(20)]
    with pytest.raises(UserError, match="line 5: the completion is empty"):
        task_of_rows(tmp_path, rows)
    with (tmp_path / "mine.jsonl").open("a") as file:
        file.write('{"prompt": "torn\n')
    for options in ({}, {"on_bad_row": "error"}):
        (task,) = load_tasks([{"task": "mine.jsonl", "on_bad_row": "skip"}], tmp_path, **options)
        assert len(everything(task)) == 19
        assert [(row.number, row.content) for row in task.skipped] == [(21, '{"prompt": "torn'), (5, rows[4])]
        assert task.notes[-1].startswith("2 rows are left out; the first: ")
    (by_run,) = load_tasks(["mine.jsonl"], tmp_path, on_bad_row="skip")
    assert everything(by_run) == everything(task)
    with pytest.raises(UserError, match="line 21: not JSON"):
        load_tasks([{"task": "mine.jsonl", "on_bad_row": "error"}], tmp_path, on_bad_row="skip")
    with pytest.raises(UserError, match="no row can be used"):
        task_of_rows(tmp_path, [{"prompt": "a", "completion": ""}], on_bad_row="skip")


def test_the_split_is_recorded_and_no_seed_changes_it(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mine.jsonl", [{"prompt": f"p{i}", "completion": "c"} for i in range(60)])
    tasks = [load_tasks(["mine.jsonl"], tmp_path, seed=seed)[0] for seed in (0, 7)]
    assert tasks[0].validation_examples() == tasks[1].validation_examples()
    first, second = (task.record() for task in tasks if isinstance(task, DataTask))
    assert first == second == json.loads(json.dumps(first))
    assert first["rows"] == {"training": 52, "validation": 2, "test": 6}
    (lines,) = first["held_out"]["test"].values()
    assert [example.prompt for example in tasks[0].test_examples()] == [f"p{line - 1}" for line in lines]


def test_what_a_test_file_asks_is_not_learned(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "test.jsonl", [{"prompt": "p3", "completion": "other"}, {"prompt": "new", "completion": "x"}]
    )
    task = task_of_rows(tmp_path, [{"prompt": f"p{i}", "completion": "c"} for i in range(20)], test="test.jsonl")
    assert "p3" not in {example.prompt for example in task.training_examples() + task.validation_examples()}
    assert len(everything(task)) == 21
    assert any("rows left out, for rows of test ask the same" in note for note in task.notes)


def test_plain_text_is_learned_and_measured_in_bits(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i} of a book. " + "It goes on. " * 60 + "End." for i in range(30)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs) + "\n")
    (task,) = load_tasks(["book.txt"], tmp_path, chat_template=True)
    assert (task.name, task.chat_template, task.lm_eval.OUTPUT_TYPE) == ("book", False, "loglikelihood_rolling")
    assert list(task.lm_eval.aggregation()) == ["bits_per_byte"]
    examples = everything(task)
    assert all(example.prompt == "" and not example.ends for example in examples)
    by_place = sorted(examples, key=lambda example: int(example.place.rpartition(" ")[2]))
    assert "\n\n".join(str(example.completion) for example in by_place) == "\n\n".join(paragraphs).strip()
    write_jsonl(tmp_path / "texts.jsonl", [{"text": f"text {i}"} for i in range(5)])
    (texts,) = load_tasks(["texts.jsonl"], tmp_path)
    assert all(example.ends for example in everything(texts))


def test_what_a_row_to_predict_is_asked(tmp_path: Path) -> None:
    alpaca = task_of_rows(tmp_path, [{"instruction": f"i{n}", "input": "", "output": "o"} for n in range(5)])
    assert alpaca.question({"instruction": "Sing."}, "row 1") == "### Instruction:\nSing.\n\n### Response:\n"
    chats = task_of_rows(tmp_path, [{"messages": [USER, ANSWER]}])
    assert chats.question({"messages": [USER, ANSWER, USER, ANSWER]}, "row 1") == [USER, ANSWER, USER]
    labels = task_of_rows(tmp_path, [{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(9)])
    assert labels.question({"text": "x"}, "row 1") is None
    assert labels.document({"text": "x"}, "row 1") == {"prompt": "x\nLabel: ", "choices": ["a", "b"], "gold": 0}
    with pytest.raises(UserError, match="row 1: lacks the field 'text' that prompt uses"):
        labels.document({"txt": "x"}, "row 1")
    for task, row in ((labels, {"text": ["x"]}), (alpaca, {"instruction": "i", "input": {"a": "x"}})):
        ask = task.document if task is labels else task.question
        with pytest.raises(UserError, match=r"row 1: the column '(text|input)' holds no text but (list|dict)"):
            ask(row, "row 1")
    with pytest.raises(UserError, match="row 1: holds answers alone, so nothing is asked"):
        chats.question({"messages": [ANSWER]}, "row 1")
    pairs = [{"prompt": f"p{n}", "completion": "c"} for n in range(5)]
    assert task_of_rows(tmp_path, pairs).question({"prompt": 7}, "row 1") == "7"
    with pytest.raises(UserError, match="row 1: 'prompt' holds no text but list, and the metric exact_match wants one"):
        task_of_rows(tmp_path, pairs, metric="exact_match").document({"prompt": [USER]}, "row 1")


def test_what_is_scored_chooses_nothing_where_one_of_the_two_is_drawn(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completion": "c"} for i in range(40)]
    write_jsonl(tmp_path / "half.jsonl", rows[20:])
    task = task_of_rows(tmp_path, rows, validation="half.jsonl", test=0.2)
    splits = (task.training_examples(), task.validation_examples(), task.test_examples())
    learned, chosen_by, scored = ({str(each.prompt) for each in examples} for examples in splits)
    assert len(scored) == 8
    assert not scored & chosen_by
    assert not learned & (chosen_by | scored)
    assert learned | chosen_by | scored == {f"p{i}" for i in range(40)}


def test_where_another_task_scores_the_file_that_is_learned_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(
        "task: other\ndataset_path: json\ndataset_kwargs: {data_files: {test: mine.jsonl}}\ntest_split: test\n"
        'output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
        "metric_list: [{metric: exact_match}]\n"
    )
    task = task_of_rows(tmp_path, [{"question": f"q{i}", "answer": "a"} for i in range(9)], eval="other.yaml")
    said = "mine.jsonl is learned, and it is what other.yaml scores: name another file to score rows unseen"
    assert [note.rpartition("/")[2] for note in task.notes] == [said]


def test_solved_examples_come_from_all_over_a_sorted_file(tmp_path: Path) -> None:
    task = task_of_rows(tmp_path, [{"text": f"t{i}", "label": "ab"[i >= 1500]} for i in range(2000)])
    shots = task.lm_eval.training_docs()
    assert len(shots) == 1000
    assert 0.2 < sum(doc["gold"] for doc in shots) / 1000 < 0.3


def test_answers_with_functions_are_scored_by_loss_alone(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    rows = [{"prompt": f"p{i}", "completion": "c", "tools": tools} for i in range(5)]
    with pytest.raises(UserError, match=r"mine.jsonl: its rows have 'tools', and are scored by loss, not by 'exact_ma"):
        task_of_rows(tmp_path, rows, chat_template=True, metric="exact_match")
    task = task_of_rows(tmp_path, rows, chat_template=True)
    assert (task.lm_eval, task.tools({"prompt": "p", "tools": tools}, "row 1")) == (None, tools)
