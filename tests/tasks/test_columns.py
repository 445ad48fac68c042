"""Columns as people have them: numbers for texts, names in capitals or of several words, lists and JSON in cells. Each
is read as it was meant, or refused with its place."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from tiny_tasks import task_of_file, task_of_rows, write_jsonl, write_table

from loraweave.errors import UserError
from loraweave.tasks import Example, Task
from loraweave.tasks.recognise import recognise

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SHARED = [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


def everything(task: Task) -> list[Example]:
    return task.training_examples() + task.validation_examples() + task.test_examples()


def texts(task: Task) -> set[tuple[Any, Any]]:
    return {(str(example.prompt), str(example.completion)) for example in everything(task)}


def test_numbers_are_texts_in_tables_and_in_json(tmp_path: Path) -> None:
    sums = [{"prompt": f"{n}+1=", "completion": n + 1} for n in range(12)]
    wanted = {(f"{n}+1=", f"{n + 1}") for n in range(12)}
    assert texts(task_of_file(tmp_path, write_table(tmp_path, sums))) == wanted
    with pytest.raises(UserError, match="line 1: 'prompt' and 'completion' must both be text"):
        task_of_rows(tmp_path, sums)  # JSON has words for texts
    scored = task_of_file(tmp_path, write_table(tmp_path, sums), metric="exact_match")
    assert {doc["completion"] for doc in scored.lm_eval.eval_docs} <= {str(n) for n in range(1, 13)}
    assert scored.question({"prompt": "7"}, "row 1") is None
    assert scored.document({"prompt": 7}, "row 1") == {"prompt": "7", "completion": ""}
    kinds = [{"text": n, "label": ("even", "odd")[n % 2]} for n in range(12)]
    wanted = {(f"{n}\nLabel: ", ("even", "odd")[n % 2]) for n in range(12)}
    assert texts(task_of_file(tmp_path, write_table(tmp_path, kinds))) == wanted
    assert texts(task_of_rows(tmp_path, kinds)) == wanted
    steps = [{"system": "Count.", "instruction": "Add one.", "input": n, "output": n + 1} for n in range(12)]
    task = task_of_file(tmp_path, write_table(tmp_path, steps))
    chat = [{"role": "system", "content": "Count."}, {"role": "user", "content": "Add one.\n\n5"}]
    assert Example(chat, [{"role": "assistant", "content": "6"}]) in everything(task)


def test_true_and_false_are_their_own_names_and_that_is_said(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": n % 2 == 0} for n in range(12)]
    task = task_of_rows(tmp_path, rows)
    assert {example.completion for example in everything(task)} == {"false", "true"}
    assert Example("t2\nLabel: ", "true") in everything(task)
    assert "true and false are taken for the names of the labels" in task.notes
    assert {e.completion for e in everything(task_of_rows(tmp_path, rows, choices=["fine", "rude"]))} == {
        "fine",
        "rude",
    }
    with pytest.raises(UserError, match="every row has the label 'true'"):
        task_of_rows(tmp_path, [{"text": f"t{n}", "label": True} for n in range(12)], choices={"1": "true"})


@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv"])
def test_conversations_in_cells_of_a_table(name: str, tmp_path: Path) -> None:
    wanted = Example(CHAT[:1], CHAT[1:])
    rows = [{"id": n, "messages": json.dumps(CHAT)} for n in range(6)]
    assert wanted in everything(task_of_file(tmp_path, write_table(tmp_path, rows, name)))
    rows = [{"id": n, "conversations": json.dumps(SHARED)} for n in range(6)]
    task = task_of_file(tmp_path, write_table(tmp_path, rows, name))
    assert task.format.name == "ShareGPT conversations"
    assert Example([{"role": "system", "content": "s"}, *CHAT[:1]], CHAT[1:]) in everything(task)
    rows = [{"instruction": "a", "history": json.dumps([["x", "y"]]), "output": "b"} for n in range(6)]
    task = task_of_file(tmp_path, write_table(tmp_path, rows, name))
    assert any(len(example.prompt) == 3 for example in everything(task))
    rows = [{"id": n, "messages": json.dumps(CHAT) if n else str(CHAT)} for n in range(6)]  # as pandas writes lists
    with pytest.raises(UserError, match=rf"{name}, line 2: 'messages' is text that is not JSON"):
        task_of_file(tmp_path, write_table(tmp_path, rows, name))


@pytest.mark.parametrize(
    ("row", "name", "prompt", "answer"),
    [
        ({"Prompt": "p{}", "Completion": "c{}"}, "prompt and completion", "p1", "c1"),
        ({"Question": "q{}", "Answer": "a{}"}, "question and answer", "q1\n", "a1"),
        (
            {"Instruction": "i{}", "Input": "x{}", "Output": "o{}"},
            "Alpaca",
            "### Instruction:\ni1\n\n### Input:\nx1\n\n### Response:\n",
            "o1",
        ),
        ({"Text": "t{}", "Label": "l{}"}, "text and label", "t1\nLabel: ", "l1"),
        ({"TEXT": "t{}"}, "plain text", "", "t1"),
    ],
)
def test_names_in_capitals(row: dict[str, str], name: str, prompt: str, answer: str, tmp_path: Path) -> None:
    rows = [{key: value.format(n) for key, value in row.items()} for n in range(6)]
    task = task_of_file(tmp_path, write_table(tmp_path, rows))
    assert task.format.name == name
    assert (prompt, answer) in texts(task)


def test_names_of_several_words(tmp_path: Path) -> None:
    rows = [{"Customer message": f"m{n}", "Sentiment label": "ab"[n % 2], "note": None} for n in range(12)]
    own = {"prompt": '{{row["Customer message"]}}\nLabel: ', "completion": '{{row["Sentiment label"]}}'}
    task = task_of_rows(tmp_path, rows, **own, choices=["a", "b"])
    assert ("m3\nLabel: ", "b") in texts(task)
    assert task.lm_eval is not None
    assert task.document({"Customer message": "new"}, "row 1")["prompt"] == "new\nLabel: "
    assert ("m3\nLabel: ", "b") in texts(task_of_rows(tmp_path, rows, **own))
    for completion in ("Sentiment label", "{{Sentiment label}}", "{{ Sentiment label }}"):
        with pytest.raises(UserError, match=r"of 'completion' write the column 'Sentiment label' as \{\{row\["):
            task_of_rows(tmp_path, rows, **{**own, "completion": completion})
    with pytest.raises(UserError, match=r"mine\.jsonl, line 1: lacks the field 'Customer mesage' that prompt uses"):
        task_of_rows(tmp_path, rows, **{**own, "prompt": '{{row["Customer mesage"]}}'})
    with pytest.raises(UserError, match=r"line 1: lacks the field 'row.note' that prompt uses"):
        task_of_rows(tmp_path, rows, **{**own, "prompt": "{{row.note}}"})
    said = [{"text": f"m{n}", "Sentiment label": "ab"[n % 2]} for n in range(12)]
    assert ("m3\nSentiment label: ", "b") in texts(task_of_rows(tmp_path, said))
    named = [{"text": f"m{n}", "label": "ab"[n % 2], "row": n} for n in range(12)]  # a column of that name is itself
    assert ("m3 3", "b") in texts(task_of_rows(tmp_path, named, prompt="{{text}} {{row}}", completion="label"))


def test_templates_of_the_run_file_may_read_any_column(tmp_path: Path) -> None:
    rows = [
        {"system": "Be brief.", "documents": f"d{n}", "weight": 2.5, "image": "x.png", "frage": f"q{n}", "antwort": "a"}
        for n in range(6)
    ]
    task = task_of_rows(
        tmp_path, rows, prompt="{{system}} {{documents}} {{weight}} {{frage}}\n", completion="{{antwort}}"
    )
    assert ("Be brief. d3 2.5 q3\n", "a") in texts(task)
    with pytest.raises(UserError, match="'completion' reads no column, so all rows would have the one answer 'yes!'"):
        task_of_rows(tmp_path, rows, prompt="{{frage}}", completion="yes!")


@pytest.mark.parametrize(
    ("row", "column", "kind"),
    [
        ({"question": "q", "answer": "a", "context": ["p", "q"]}, "context", "list"),
        ({"question": "q", "answer": ["a"]}, "answer", "list"),
        ({"instruction": "i", "input": {"x": 1}, "output": "o"}, "input", "dict"),
        ({"system": "s", "instruction": "i", "input": [1], "output": "o"}, "input", "list"),
        ({"text": ["t"], "label": "b"}, "text", "list"),
    ],
)
def test_what_is_no_text_is_not_printed_in_pythons_way(
    row: dict[str, Any], column: str, kind: str, tmp_path: Path
) -> None:
    good = {key: value if isinstance(value, str) else "text" for key, value in row.items()} | {"label": "a"}
    good = {key: value for key, value in good.items() if key in row}
    rows = [{**good, next(iter(good)): f"g{n}"} for n in range(6)]
    with pytest.raises(UserError, match=f"line 7: the column {column!r} holds no text but {kind}"):
        task_of_rows(tmp_path, [*rows, row])
    assert len(task_of_rows(tmp_path, [*rows, row], on_bad_row="skip").skipped) == 1
    if column != "text":
        with pytest.raises(UserError, match=f"line 1: the column {column!r} holds no text but {kind}"):
            task_of_rows(tmp_path, [row, row])


def test_bytes_are_no_text(tmp_path: Path) -> None:
    rows = pyarrow.table({"question": ["q"] * 4, "answer": [b"a"] * 4})
    pyarrow.parquet.write_table(rows, tmp_path / "mine.parquet")
    with pytest.raises(UserError, match=r"row 1: the column 'answer' holds no text but bytes"):
        task_of_file(tmp_path, "mine.parquet")


def test_one_label_that_is_none_costs_its_row(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": "ab"[n % 2] if n != 4 else ["a"]} for n in range(12)]
    with pytest.raises(UserError, match="line 5: a label is a name or a whole number, not list"):
        task_of_rows(tmp_path, rows)
    task = task_of_rows(tmp_path, rows, on_bad_row="skip")
    assert (len(everything(task)), [row.number for row in task.skipped]) == (11, [5])


def test_plain_text_beside_other_columns(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "words": n} for n in range(6)]
    with pytest.raises(UserError, match=r"has 'text' and 'words': .* write metric: bits_per_byte"):
        task_of_rows(tmp_path, rows)
    task = task_of_rows(tmp_path, rows, metric="byte_perplexity")
    assert (task.format.name, task.format.unused) == ("plain text", ["words"])
    assert list(task.lm_eval.aggregation()) == ["byte_perplexity"]
    for index in ("__index_level_0__", "Unnamed: 0"):
        pandas = [{"text": f"t{n}", index: n} for n in range(6)]
        assert task_of_rows(tmp_path, pandas).format.name == "plain text"
    (tmp_path / "mine.csv").write_text("".join([",text\n", *(f"{n},t{n}\n" for n in range(6))]))
    task = task_of_file(tmp_path, "mine.csv")
    assert task.format.name == "plain text"
    assert any("the first column has no name" in note for note in task.notes)


def test_text_and_rows_of_one_pattern_keep_their_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"Paragraph {n}. " + "It goes on. " * 150 for n in range(5)))
    write_jsonl(tmp_path / "b.jsonl", [{"text": f"t{n}"} for n in range(5)])
    for names in ("[ab].*", "[ba].*"):
        task = task_of_file(tmp_path, names)
        assert {(example.place.partition(",")[0][-3:], example.ends) for example in everything(task)} == {
            ("txt", False),
            ("onl", True),
        }


@pytest.mark.parametrize("written", ["[no, yes]", "{0: no, 1: yes}", "[on, off]"])
def test_words_that_yaml_takes_for_others(written: str, tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": n % 2} for n in range(12)]
    with pytest.raises(UserError, match="choices: YAML reads yes, no, on and off as true and false: put such names in"):
        task_of_rows(tmp_path, rows, choices=yaml.safe_load(written))
    named = task_of_rows(tmp_path, rows, choices=yaml.safe_load("[1, 2.5]"))  # stars for 0 and 1
    assert {("t2\nLabel: ", "1"), ("t3\nLabel: ", "2.5")} <= texts(named)
    assert ("t3\nLabel: ", "11") in texts(task_of_rows(tmp_path, rows, choices=yaml.safe_load("{0: 10, 1: 11}")))


def test_what_is_of_no_format_is_told_in_a_line(tmp_path: Path) -> None:
    by_id = {f"id{n:04}": {"text": f"t{n}", "label": "a", **({"x": 1} if n else {})} for n in range(5_000)}
    (tmp_path / "mine.json").write_text(json.dumps(by_id))
    with pytest.raises(UserError, match=r"fields 'id0000', .* and 4,980 more; a task file has") as caught:
        task_of_file(tmp_path, "mine.json")
    assert len(str(caught.value)) < 1_000
    (tmp_path / "mine.tsv").write_text("ham\tGo until jurong point\nspam\tFree entry\n")
    found = recognise("mine.tsv", tmp_path)
    assert found is not None
    assert "a table's first line names its columns" in found.problems[-1].message


def test_labels_that_differ_in_capitals_alone_are_said(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": ("Good", " good", "bad ", "BAD")[n % 4]} for n in range(40)]
    task = task_of_file(tmp_path, write_table(tmp_path, rows))
    notes = [note for note in task.notes if "capitals" in note]
    assert [note.split(" differ")[0] for note in notes] == ["the labels 'BAD', 'bad'", "the labels 'Good', 'good'"]
    assert notes[0].endswith('say so in choices: {"BAD": "BAD", "bad": "BAD", ...}')
    choices = yaml.safe_load('{"BAD": "BAD", "bad": "BAD", "Good": "Good", "good": "Good"}')
    task = task_of_file(tmp_path, "mine.csv", choices=choices)
    assert {example.completion for example in task.training_examples()} == {"BAD", "Good"}
    assert not any("capitals" in note for note in task.notes)
    one_each = task_of_file(tmp_path, "mine.csv", choices=["BAD", "bad", "Good", "good"])  # who says so means it
    assert not any("capitals" in note for note in one_each.notes)


@pytest.mark.parametrize("turn", [("role", "content", "user", "assistant"), ("from", "value", "human", "gpt")])
def test_a_greeting_before_the_first_question_is_said_not_to_be_learned(turn: tuple[str, ...], tmp_path: Path) -> None:
    who, what, user, assistant = turn
    talk = [{who: "system", what: "s"}, {who: assistant, what: "Hello"}, {who: user, what: "q"}]
    talk.append({who: assistant, what: "a"})
    key = "messages" if who == "role" else "conversations"
    rows = [{key: talk if n else [talk[0], *talk[2:]]} for n in range(4)]
    seen = task_of_rows(tmp_path, rows)
    said = "3 conversations begin with a turn of the assistant, which answers nobody: it is read and not learned"
    assert said in seen.notes
    examples = seen.training_examples()
    assert [example.completion[-1]["content"] for example in examples] == ["a"] * len(examples)
    assert not any("answers nobody" in note for note in task_of_rows(tmp_path, [rows[0]] * 4).notes)


@pytest.mark.parametrize("talk", [5, {"role": "assistant"}, [7], [{"role": ["x"]}], "[", "no", None, [], [None]])
def test_what_is_no_conversation_costs_its_row(talk: Any, tmp_path: Path) -> None:
    rows = [{"messages": CHAT}] * 3 + [{"messages": talk}]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    seen = recognise("mine.jsonl", tmp_path)
    assert seen is not None
    assert (seen.rows, [problem.number for problem in seen.problems], seen.notes) == (3, [4], [])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"question": "q", "context": "c", "answers": {"n": [1], "text": ["a"]}},
            r"{{answers\.text\[0\]}} for what 'answers'",
        ),
        ({"id": 1, "doc": {"no": 1, "body": "b"}, "label": "x"}, r"such as {{doc\.body}} for what 'doc' holds"),
        ({"my doc": [{"the body": "b"}], "n": 1}, r'such as {{row\["my doc"\]\[0\]\["the body"\]}} for what'),
        ({"dialog": [{"role": "user", "content": "q"}]}, "where 'dialog' holds conversations, call it 'messages'"),
        ({"question": "q", "answer": {"text": "a"}}, r"holds no text but dict.*such as {{answer\.text}}"),
        ({"prompt": {"a": 1}, "completion": "b"}, "'prompt' holds neither text nor messages but dict"),
        ({"prompt": "a", "completion": True}, "must both be text|neither text nor messages"),
    ],
)
def test_what_holds_more_than_a_text_is_told_with_the_way_to_it(
    row: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        task_of_rows(tmp_path, [row] * 3)


@pytest.mark.parametrize("rated", [(True, False), (1, 0), ("True", "False"), (1.0, 0.0)])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": "b", "label": 0},
        {"messages": CHAT, "label": 0},
        {"conversations": SHARED, "kto_tag": 0},
        {"paragraph": "p", "Question": "a", "Answer": "b", "Label": 0},
        {"instruction": "a", "output": "b", "label": 0},
    ],
)
def test_answers_that_are_rated_are_not_learned_one_as_the_other(
    row: dict[str, Any], rated: tuple[Any, Any], tmp_path: Path
) -> None:
    *_, column = row
    with pytest.raises(UserError, match=rf"mine\.jsonl, line 1: '{column}' rates the answers"):
        task_of_rows(tmp_path, [{**row, column: value} for value in rated])
    rows = [{**row, column: topic} for topic in (0, 1, 2)]  # which says something else
    assert len(task_of_rows(tmp_path, rows).training_examples()) == 3


@pytest.mark.parametrize("names", [("A", "B", "C"), ("Option 1", "Option 2"), ("option_a", "option_b")])
def test_answers_to_choose_from_in_columns_of_their_own(names: tuple[str, ...], tmp_path: Path) -> None:
    rows = [{"question": "Which?", **dict.fromkeys(names, "x"), "answer": names[i]} for i in range(2)]
    with pytest.raises(UserError, match=f"answers to choose from, '{names[0]}', .* which nobody would be asked"):
        task_of_file(tmp_path, write_table(tmp_path, rows))
    sums = [{"a": a, "b": 3, "question": f"{a} + 3?", "answer": a + 3} for a in range(5)]
    assert task_of_file(tmp_path, write_table(tmp_path, sums)).about.endswith("not used: 'a', 'b'")


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": "a", "response": "b", "history": [["c", "d"]]}, "history"),
        ({"system_prompt": "Be brief.", "question": "a", "response": "b"}, "system_prompt"),
        ({"System": "Be brief.", "Prompt": "a", "Response": "b"}, "System"),
        ({"System": "Be brief.", "Instruction": "a", "Input": "c", "Output": "b"}, "System"),
    ],
)
def test_what_stands_before_a_question_is_not_passed_over(row: dict[str, Any], column: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"line 1: '{column}' is not supported: write "):
        task_of_rows(tmp_path, [row])
    assert task_of_rows(tmp_path, [{**row, column: empty} for empty in ("", None, "[]")]).training_examples()


def test_a_prompt_that_stands_in_its_conversation_too_is_fine(tmp_path: Path) -> None:
    (example,) = task_of_rows(tmp_path, [{"system_prompt": "s", "conversations": SHARED}]).training_examples()
    assert example.prompt[0] == {"role": "system", "content": "s"}


def test_several_labels_of_a_row_are_told_behind_rows_without_any(tmp_path: Path) -> None:
    rows = [{"text": "a", "labels": None}, {"text": "b", "labels": ["x", "y"]}]
    with pytest.raises(UserError, match="line 1: a label is a name or a whole number, not list"):
        task_of_rows(tmp_path, rows)
    assert "not list" in recognise("mine.jsonl", tmp_path).problems[-1].message


def test_columns_that_are_not_used_are_said(tmp_path: Path) -> None:
    task = task_of_rows(tmp_path, [{"context": "c", "prompt": "a", "completion": "b"}])
    assert task.about.endswith("; not used: 'context'")


def test_labels_that_a_template_prints_as_numbers_are_said(tmp_path: Path) -> None:
    rows = {"text": ["a", "b"], "label": [0, 1]}
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "mine.parquet")
    task = task_of_file(tmp_path, "mine.parquet", prompt="{{text}}?\n", completion="{{label}}")
    assert "'label' is printed as numbers; to learn what they stand for add choices: ['no', 'yes']" in task.notes
    choices = ["no", "yes"]
    named = task_of_file(tmp_path, "mine.parquet", prompt="{{text}}?\n", completion="{{label}}", choices=choices)
    assert {each.completion for each in named.training_examples()} <= {*choices}
    assert not any("printed as numbers" in note for note in named.notes)
