"""What a model was asked and said, example by example, and what it is held against."""

import json

import pytest

from loraweave.evaluation.beside import Beside
from loraweave.evaluation.outcomes import shares, weighted
from loraweave.evaluation.samples import Sample, classes, harness_samples, majority, with_base, write_samples
from loraweave.evaluation.scores import TaskScore


def sample(target: str, prediction: str | None = "x", number: int = 1, **more: object) -> Sample:
    return Sample(task="t", number=number, prompt="p", target=target, prediction=prediction, outcome=0.0, **more)


def score(values: list[float], requests: str = "same", **more: object) -> TaskScore:
    """Of right (1) and wrong (0) answers."""
    mean = 100 * sum(values) / len(values)
    made = TaskScore(
        score=mean,
        stderr=5.0,
        n=len(values),
        metric="acc",
        unit="%",
        higher_is_better=True,
        filter="none",
        metrics={},
        num_fewshot=0,
        version=None,
        requests=requests,
        truncated=0,
        seconds=0.0,
        outcomes=shares(values, mean, 100.0),
    )
    return made | more  # type: ignore[return-value]


class Choosing:
    """As much of an lm-eval task as is asked."""

    OUTPUT_TYPE = "multiple_choice"
    multiple_input = 0

    def doc_to_choice(self, doc: dict) -> list[str]:
        return doc["choices"]


def answered(target: object, *likelihoods: float) -> dict:
    doc = {"choices": ["no", "certainly", "maybe"]}
    arguments = [("question", choice) for choice in doc["choices"]]
    return {"doc": doc, "target": target, "arguments": arguments, "filtered_resps": [(v, False) for v in likelihoods]}


def test_a_choice_is_the_likeliest_and_a_target_is_its_text() -> None:
    said = [answered(1, -3.0, -2.0, -9.0), answered("maybe", -1.0, -2.0, -3.0), answered([0, 2], -9.0, -9.5, -4.0)]
    found = harness_samples("t", Choosing(), said, "acc", shares([1, 0, 0], 100 / 3, 100.0))
    assert [(one["target"], one["prediction"], one["outcome"]) for one in found] == [
        ("certainly", "certainly", 100.0),
        ("maybe", "no", 0.0),
        ("no", "maybe", 0.0),
    ]
    assert [one["number"] for one in found] == [1, 2, 3]
    # by the letter: −3.6 / 2, −6.3 / 9 and −3.5 / 5
    (normed,) = harness_samples("t", Choosing(), [answered(1, -3.6, -6.3, -3.55)], "acc_norm", None)
    assert (normed["prediction"], normed["outcome"]) == ("certainly", None)


def test_classes_are_few_and_each_is_asked_for_again() -> None:
    samples = [sample("yes"), sample(" no"), sample("no"), sample("no ")]
    assert classes(samples) == ["no", "yes"]
    assert majority(samples) == 75.0
    assert majority([sample(str(number)) for number in range(9)]) is None  # texts of their own
    assert majority([sample("yes"), sample("yes")]) is None  # one class alone
    assert majority([sample("yes", None), sample("no", None)] * 5) is None  # nothing was chosen


def test_the_majority_stands_beside_shares_of_right_answers_alone() -> None:
    samples = {"t": [sample("yes", "yes")] * 6 + [sample("no", "no")] * 4}
    assert Beside({"t": score([1] * 10)}, samples=samples).majority == {"t": 60.0}
    for metric in ("mcc", "f1"):  # in percent as well, but of no use beside a share
        assert Beside({"t": score([1] * 10, metric=metric, outcomes=None)}, samples=samples).majority == {}


def test_the_base_stands_beside_where_it_was_asked_the_same(tmp_path) -> None:
    ours, bases = [sample("yes", "yes")], [sample("yes", "no")]
    assert with_base(ours, bases)[0]["base_prediction"] == "no"
    assert "base_prediction" not in with_base(ours, [{**bases[0], "prompt": "another"}])[0]
    write_samples(tmp_path / "samples.jsonl", {"t": ours, "u": ours}, {"t": bases})
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line.get("base_prediction") for line in lines] == ["no", None]
    assert lines[0]["prompt"] == "p"


def test_differences_are_paired_and_of_the_same_questions_alone() -> None:
    one, two = score([1] * 12), score([0] * 8 + [1] * 4)
    loss = score([1], unit="nats", metric="loss", higher_is_better=False)
    lower = loss | {"score": 1.0, "n": 3, "outcomes": weighted([1.0, 1.0, 1.0], [1, 1, 1])}
    higher = loss | {"score": 2.0, "n": 3, "outcomes": weighted([2.0, 2.0, 2.0], [1, 1, 1])}
    found = Beside({"a": one, "b": one, "c": lower}, {"a": two, "b": score([1] * 12, "other"), "c": higher})
    assert set(found.differences) == {"a", "c"}
    assert found.differences["a"].mean == pytest.approx(200 / 3)
    assert found.differences["a"].p == pytest.approx(2 * 0.5**8)  # McNemar's: eight of eight
    assert found.differences["c"].mean == -1.0
    assert found.mean_difference is None  # b, which is in the mean, was asked otherwise
    whole = Beside({"a": one, "b": one, "c": lower}, {"a": two, "b": two, "c": higher})
    assert whole.mean_difference is not None
    assert whole.mean_difference.mean == pytest.approx(200 / 3)
    assert whole.mean_difference.interval < found.differences["a"].interval
    assert Beside({"a": one}).mean_difference is None
