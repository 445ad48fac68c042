"""Rows of data in lm-eval's hands: its solved examples are those of training, and its answers are compared as said."""

import unicodedata
from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from tiny_tasks import write_jsonl

from loraweave.tasks import load_tasks


def test_solved_examples_are_written_as_those_of_training(tmp_path: Path) -> None:
    pairs = [{"prompt": f"The opposite of {i} is", "completion": f" minus {i}\n"} for i in range(40)]
    named = [{"q": row["prompt"], "a": row["completion"].strip()} for row in pairs]
    for rows, more in ((pairs, {}), (named, {"prompt": "{{q}}", "completion": " {{a}}"})):
        write_jsonl(tmp_path / "mine.jsonl", rows)
        (task,) = load_tasks([{"task": "mine.jsonl", "metric": "exact_match", **more}], tmp_path)
        harness, doc = task.lm_eval, task.lm_eval.eval_docs[0]
        harness.set_fewshot_seed(seed=0)
        shot, question = harness.fewshot_context(doc, num_fewshot=1).split("\n\n")
        assert shot in {f"{each.prompt}{str(each.completion).rstrip()}" for each in task.training_examples()}
        assert question == task.test_examples()[0].prompt
        assert harness.process_results(doc, [str(task.test_examples()[0].completion).strip()]) == {"exact_match": 1}


@pytest.mark.parametrize(
    ("answer", "until", "taken"),
    [
        ("\nParis {}", [], "Paris 7"),  # writing that stopped at a line end would never come to it
        ("\nParis {}\nFrance", [], "\nParis 7\nNext: "),
        ("Paris {}\n", ["\n"], "\nParis 7\nNext: "),
    ],
)
def test_what_is_written_ends_with_its_line(answer: str, until: list[str], taken: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"Capital of {n}?", "completion": answer.format(n)} for n in range(40)]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    (task,) = load_tasks([{"task": "mine.jsonl", "metric": "exact_match"}], tmp_path)
    assert task.lm_eval.config.generation_kwargs["until"] == until
    written = Instance("generate_until", {}, ("Capital of 7?", {}), 0, resps=["\nParis 7\nNext: "])
    (ensemble,) = task.lm_eval._filters
    ensemble.apply([written])
    assert written.filtered_resps[ensemble.name] == taken
    doc = {"prompt": "Capital of 7?", "completion": answer.format(7)}
    assert task.lm_eval.process_results(doc, ["Paris 7"])["exact_match"] == ("France" not in answer)


def test_letters_are_the_same_however_they_are_composed(tmp_path: Path) -> None:
    rows = [{"prompt": f"Thủ đô {n}?", "completion": unicodedata.normalize("NFD", f"Hà Nội {n}")} for n in range(40)]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    (task,) = load_tasks([{"task": "mine.jsonl", "metric": "exact_match"}], tmp_path)
    doc = task.lm_eval.eval_docs[0]
    for form in ("NFC", "NFD"):
        answer = unicodedata.normalize(form, doc["completion"])
        assert task.lm_eval.process_results(doc, [answer]) == {"exact_match": 1}
    assert task.lm_eval.process_results(doc, ["Ha Noi"]) == {"exact_match": 0}
