"""Means, intervals and notes: what the table says beyond single runs."""

import pytest
from comparison.recorded import concluded, results, with_answers, with_scores
from scipy import stats

from loraweave.comparison import words
from loraweave.comparison.summary import best_methods, notes


def test_summary_is_over_the_finished_seeds():
    found = results(failed=("rlora", 1))
    base, lora, rlora = found["summary"]
    assert (base["finished"], lora["finished"], rlora["finished"], rlora["failed"]) == (1, 3, 2, 1)
    scores = [run["scores"]["sort"]["score"] for run in found["runs"] if run["method"] == "rlora" and run["scores"]]
    assert rlora["scores"]["sort"]["mean"] == pytest.approx(sum(scores) / 2)
    assert base["seconds"] is None
    # Its standard error is 2.5, and of single answers nothing is known: Student's t of its examples.
    n = found["runs"][0]["scores"]["sort"]["n"]
    assert base["scores"]["sort"]["interval"] == pytest.approx(2.5 * stats.t.ppf(0.975, n - 1))


def test_a_correlation_has_no_interval_of_a_share():
    """It may be below zero, and whatever is a percentage and has no outcomes is no mean over answers."""
    found = with_scores({"lora": [{"a": -4.0}], "rlora": [{"a": 99.0}]}, n=50, stderr=3.0)
    for run in found["runs"]:
        run["scores"]["a"] |= {"metric": "mcc"}
    for row, mean in zip(concluded(found)["summary"], (-4.0, 99.0), strict=True):
        half = 3.0 * stats.t.ppf(0.975, 49)
        for score in (row["scores"]["a"], row["mean"]):
            assert (score["low"], score["high"]) == pytest.approx((mean - half, mean + half))


def test_a_loss_is_not_averaged_with_percentages():
    found = results(losses=["notes"])
    run = found["runs"][1]
    percentages = [score["score"] for score in run["scores"].values() if score["unit"] == "%"]
    assert run["mean"] == pytest.approx(sum(percentages) / len(percentages))
    assert any("Left out of the mean: notes: a held-out loss in nats" in note for note in notes(found))


def test_losses_alone_are_averaged_and_lower_is_best():
    found = results(tasks=(), losses=["notes", "letters"])
    assert any("lower is better" in note for note in notes(found))
    best = best_methods(found["summary"], found["tasks"])
    means = {row["method"]: row["mean"]["mean"] for row in found["summary"] if row["method"] != "base"}
    assert best[""] == {min(means, key=means.__getitem__)}


def test_notes_say_of_what_the_intervals_speak():
    assert any("of other seeds and other examples" in note and "3 seeds" in note for note in notes(results()))
    assert any("for these very adapters: there is one seed" in note for note in notes(results(seeds=[0])))
    assert "rlora with seed 1 failed: the loss became NaN at step 7" in notes(results(failed=("rlora", 1)))


def test_no_interval_near_the_ends_is_of_no_width_or_leaves_the_scale():
    found = with_answers({"lora": [{"a": "1" * 10}], "rlora": [{"a": "1" * 10}] * 3, "mlora": [{"a": "1" * 199 + "0"}]})
    one, three, most = (row["scores"]["a"] for row in found["summary"])
    assert (one["low"], one["high"]) == pytest.approx((69.15, 100.0), abs=0.01)  # Clopper and Pearson, ten of ten
    assert (three["low"], three["high"]) == pytest.approx((69.15, 100.0), abs=0.01)
    assert 96 < most["low"] < 99.5 < most["high"] <= 100
    assert words.score(one, "%") == ("100.0", "69–100")
    assert words.score(most, "%") == ("99.5", "97–100")


def test_one_seed_has_the_exact_interval_of_its_examples():
    found = with_answers({"lora": [{"a": "1" * 81 + "0" * 182}]})["summary"][0]["scores"]["a"]
    assert (found["low"], found["high"]) == pytest.approx((25.27, 36.76), abs=0.1)  # Newcombe (1998), table I


def test_the_base_is_never_best_and_ties_are_all_best():
    found = results(methods=["base", "lora", "rlora", "full"], seeds=[0])
    rows = {row["method"]: row["scores"]["sort"] for row in found["summary"]}
    for method, mean in {"base": 99.0, "lora": 80.04, "rlora": 80.01, "full": 12.0}.items():
        rows[method]["mean"] = mean
    assert best_methods(found["summary"], found["tasks"])["sort"] == {"lora", "rlora"}
    rows["full"]["mean"] = 80.02
    assert best_methods(found["summary"], found["tasks"])["sort"] == set()
