"""Means, intervals and notes: what the table says beyond single runs."""

import pytest
from comparison.recorded import results

from loraweave.comparison.statistics import spread
from loraweave.comparison.summary import best_methods, notes


def test_summary_is_over_the_finished_seeds():
    found = results(failed=("rlora", 1))
    base, lora, rlora = found["summary"]
    assert (base["finished"], lora["finished"], rlora["finished"], rlora["failed"]) == (1, 3, 2, 1)
    scores = [run["scores"]["sort"]["score"] for run in found["runs"] if run["method"] == "rlora" and run["scores"]]
    assert rlora["scores"]["sort"] == spread(scores)
    assert base["seconds"] is None
    assert base["scores"]["sort"]["interval"] is None


def test_a_loss_is_not_averaged_with_percentages():
    found = results(losses=["notes"])
    run = found["runs"][1]
    percentages = [score["score"] for score in run["scores"].values() if score["unit"] == "%"]
    assert run["mean"] == pytest.approx(sum(percentages) / len(percentages))
    assert any("notes" in note and "left out of the mean" in note for note in notes(found))


def test_losses_alone_are_averaged_and_lower_is_best():
    found = results(tasks=(), losses=["notes", "letters"])
    assert any("lower is better" in note for note in notes(found))
    best = best_methods(found["summary"], found["tasks"])
    means = {row["method"]: row["mean"]["mean"] for row in found["summary"] if row["method"] != "base"}
    assert best[""] == {min(means, key=means.__getitem__)}


def test_notes_say_how_far_to_trust_the_numbers():
    assert any("95 % interval" in note for note in notes(results()))
    assert any("standard error" in note and "2.5" in note for note in notes(results(seeds=[0])))
    assert "rlora with seed 1 failed: the loss became NaN at step 7" in notes(results(failed=("rlora", 1)))


def test_the_base_is_never_best_and_ties_are_all_best():
    found = results(methods=["base", "lora", "rlora", "full"], seeds=[0])
    rows = {row["method"]: row["scores"]["sort"] for row in found["summary"]}
    for method, mean in {"base": 99.0, "lora": 80.04, "rlora": 80.01, "full": 12.0}.items():
        rows[method]["mean"] = mean
    assert best_methods(found["summary"], found["tasks"])["sort"] == {"lora", "rlora"}
    rows["full"]["mean"] = 80.02
    assert best_methods(found["summary"], found["tasks"])["sort"] == set()
