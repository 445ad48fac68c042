"""A run's evaluation as rows and as a page: beside the base, with its confusions and what it said."""

import re
from types import SimpleNamespace

import pytest

from loraweave.comparison.run_page import WIDEST, about, confusion, rows, write_run_page
from loraweave.evaluation.beside import Beside
from loraweave.evaluation.outcomes import shares, weighted
from loraweave.evaluation.samples import Sample
from loraweave.evaluation.scores import TaskScore

ANSWERS = [("yes", "yes", "no")] * 6 + [("no", "no", "no")] * 3 + [("no", "yes", "no")] * 1
"""Right, what the run says, what the base says."""


def scored(values: list[float], **more: object) -> TaskScore:
    mean = 100 * sum(values) / len(values)
    made = {"score": mean, "stderr": 1.0, "n": len(values), "metric": "acc", "unit": "%", "higher_is_better": True}
    rest = {"filter": "none", "metrics": {}, "num_fewshot": 0, "version": None, "truncated": 0, "seconds": 0.0}
    return {**made, **rest, "requests": "r", "outcomes": shares(values, mean, 100.0), **more}  # type: ignore


def asked(place: int, task: str = "topic") -> list[Sample]:
    return [
        Sample(
            task=task,
            number=number,
            prompt=f"<b>question</b> {number}",
            target=answer[0],
            prediction=answer[place],
            outcome=100.0 * (answer[place] == answer[0]),
        )
        for number, answer in enumerate(ANSWERS, start=1)
    ]


@pytest.fixture
def found() -> Beside:
    right, base = ([float(answer[place] == answer[0]) for answer in ANSWERS] for place in (1, 2))
    losses = [weighted([value] * 4, [1] * 4) for value in (1.25, 2.0)]
    nats = {"metric": "loss", "unit": "nats", "higher_is_better": False, "n": 4}
    mine, other = (scored([1], **nats, outcomes=o, score=v) for o, v in zip(losses, (1.25, 2.0), strict=True))
    return Beside(
        {"topic": scored(right), "notes": mine, "[other]": scored(right)},
        {"topic": scored(base), "notes": other, "[other]": scored(right)},
        {"topic": asked(1), "[other]": asked(1, "[other]")},
        {"topic": asked(2), "[other]": asked(1, "[other]")},
    )


def test_rows_hold_the_base_the_difference_and_the_majority(found: Beside) -> None:
    topic, notes, other, mean = rows(found)
    assert (topic["score"], topic["base"], topic["n"], topic["majority"]) == ("90.0", "40.0", "10", "60.0")
    assert (topic["difference"], topic["verdict"]) == ("+50.0", "tie")  # five of five: McNemar's p is 0.0625
    assert topic["off"].startswith("±")
    assert topic["interval"] == "55.5 to 99.7"  # Clopper and Pearson's for nine of ten
    assert (notes["difference"], notes["verdict"], notes["majority"]) == ("−0.750", "win", "")
    assert (other["difference"], other["verdict"]) == ("0.0", "tie")
    assert (mean["task"], mean["score"], mean["base"], mean["difference"]) == ("mean", "90.0", "65.0", "+25.0")


def test_what_is_not_in_the_mean_is_said(found: Beside) -> None:
    assert any(line.startswith("Not in the mean: notes: a held-out loss") for line in about(found))
    alone = Beside({"topic": found.scores["topic"]})
    assert about(alone) == []
    assert [row["task"] for row in rows(alone)] == ["topic"]
    assert rows(alone)[0]["base"] == ""


def test_what_a_score_does_not_tell_is_said(found: Beside) -> None:
    cut = {**found.scores["topic"], "truncated": 3}
    lost = Beside({"text": {**found.scores["notes"], "truncated": 1}})
    same = [{**sample, "target": "yes"} for sample in found.samples["topic"]]
    said = about(Beside({"topic": cut}, samples={"topic": same}, forgetting=lost))
    assert "topic: 3 requests were longer than the model reads and lost their beginning." in said
    assert "text: 1 requests were longer than the model reads and lost their beginning." in said
    assert any(line.startswith("topic: the right answer to all 10 examples is 'yes'; the score says") for line in said)
    assert not any("right answer" in line or "longer" in line for line in about(found))


def test_the_page_counts_confusions_and_shows_right_and_wrong(found: Beside, tmp_path) -> None:
    run = SimpleNamespace(method="rlora", base="/models/nano", folder=tmp_path / "run")
    write_run_page(tmp_path / "evaluation.html", run, found, ["a <note>"], "loraweave eval run")
    page = (tmp_path / "evaluation.html").read_text()
    assert "<h1>rlora on 3 tasks</h1>" in page
    assert "a &lt;note&gt;" in page
    assert "&lt;b&gt;question&lt;/b&gt; 10" in page
    assert "<b>question" not in page
    table = re.search(r'<table class="stick confusion">.*?</table>', page, re.S)[0]
    cells = [re.findall(r"<td[^>]*>(\d*)</td>", row) for row in re.findall(r"<tr>.*?</tr>", table, re.S)[1:]]
    assert cells == [["6", "", "6"], ["1", "3", "4"]]  # yes: all six; no: one for yes, three right
    assert page.count("<details><summary>Right<span>9</span>") == 2
    assert page.count("<details><summary>Wrong<span>1</span>") == 2
    wrong = page[page.index("<summary>Wrong") :]
    assert wrong.index("<dt>Said</dt><dd>yes</dd>") < wrong.index("<dt>Base</dt><dd>no</dd>")


def confused(pairs: list[tuple[str, str]]) -> dict:
    samples = [
        Sample(task="t", number=i, prompt="", target=target, prediction=said, outcome=100.0 * (target == said))
        for i, (target, said) in enumerate(pairs, start=1)
    ]
    return confusion(samples)


def test_a_class_called_other_is_not_what_is_no_class():
    found = confused([("other", "other")] * 3 + [("other", "nonsense")] * 2 + [("sport", "nonsense")] * 3)
    assert found["heads"] == ["other", "sport", "(others)"]
    cells = {row["target"]: [(cell["count"], cell["right"]) for cell in row["cells"]] for row in found["rows"]}
    assert cells == {
        "other": [(3, True), (0, False), (2, False)],
        "sport": [(0, False), (0, True), (3, False)],
    }


def test_classes_that_stand_together_are_not_taken_for_each_other():
    """Of more classes than are shown those at the end share a row; one of them said for another is no right answer."""
    shown = [(f"c{i:02}", f"c{i:02}") for i in range(WIDEST) for _ in range(3)]
    rest = [("rare a", "rare b")] * 2 + [("rare b", "rare a")] * 2
    found = confused(shown + rest)
    assert found["heads"][-1] == "(others)"
    last = found["rows"][-1]
    assert (last["target"], last["of"]) == ("(others)", 4)
    assert (last["cells"][-1]["count"], last["cells"][-1]["right"]) == (4, False)
