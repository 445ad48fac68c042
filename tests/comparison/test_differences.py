"""Paired differences: what they are of, when they count, and how rarely chance alone makes them count."""

import random

import pytest
from comparison.recorded import concluded, results, with_answers, with_scores
from scipy import stats

from loraweave.comparison.differences import against, reference
from loraweave.comparison.evidence import Evidence
from loraweave.comparison.words import about_differences
from loraweave.errors import UserError
from loraweave.evaluation.outcomes import weighted


def of(found, method: str):
    return next(each for each in found["differences"] if each["method"] == method)


def test_two_methods_with_the_same_seeds_are_a_paired_t_test():
    one = [{"a": 71.0, "b": 60.0}, {"a": 74.5, "b": 66.0}, {"a": 69.0, "b": 61.5}]
    two = [{"a": 70.0, "b": 63.0}, {"a": 72.0, "b": 67.5}, {"a": 69.5, "b": 66.5}]
    found = of(with_scores({"lora": one, "rlora": two}, n=10**9), "rlora")
    for task in ("a", "b"):
        wanted = stats.ttest_rel([seed[task] for seed in two], [seed[task] for seed in one])
        assert found["tasks"][task]["mean"] == pytest.approx(
            sum(t[task] - o[task] for o, t in zip(one, two, strict=True)) / 3
        )
        assert found["tasks"][task]["p"] == pytest.approx(wanted.pvalue, rel=1e-3)
    means = [[sum(seed.values()) / 2 for seed in method] for method in (two, one)]
    wanted = stats.ttest_rel(*means)
    interval = wanted.confidence_interval(0.95)
    assert found["mean"]["interval"] == pytest.approx((interval.high - interval.low) / 2)
    assert found["p"] == pytest.approx(wanted.pvalue, rel=1e-3)
    assert found["seeds"] == [0, 1, 2]


def test_a_win_is_a_difference_whose_interval_leaves_zero_out():
    seeds = range(3)
    lora = [{"better": 50.0 + seed, "alike": 50.0 + seed, "worse": 50.0 + seed} for seed in seeds]
    off = ([20.0, 0.5, -19.0], [21.0, -1.5, -20.0], [19.5, 0.5, -21.5])
    rlora = [
        {task: score + shift for (task, score), shift in zip(lora[seed].items(), off[seed], strict=True)}
        for seed in seeds
    ]
    found = of(with_scores({"lora": lora, "rlora": rlora}), "rlora")
    assert {task: each["verdict"] for task, each in found["tasks"].items()} == {
        "better": "win",
        "alike": "tie",
        "worse": "loss",
    }


def test_where_lower_is_better_a_lower_loss_wins():
    found = results(tasks=(), losses=["notes"], methods=["lora", "rlora"])
    for run in found["runs"]:
        run["scores"]["notes"]["score"] = {"lora": 2.0, "rlora": 1.0}[run["method"]] + 0.01 * run["seed"] ** 2
        run["scores"]["notes"]["stderr"] = 0.01
        run["mean"] = run["scores"]["notes"]["score"]
    found["runs"][0]["scores"]["notes"]["score"] += 0.003
    each = of(concluded(found), "rlora")
    assert each["tasks"]["notes"]["mean"] < 0
    assert each["tasks"]["notes"]["verdict"] == "win"
    assert each["mean"]["verdict"] == "win"


def test_one_example_more_with_every_seed_is_no_win_and_everything_is():
    """All three differences are the same, so their own spread is none at all."""
    low, high = [{"a": "01" * 100}] * 3, [{"a": "01" * 99 + "11"}] * 3
    found = of(with_answers({"lora": low, "rlora": high}), "rlora")
    assert (found["tasks"]["a"]["mean"], found["tasks"]["a"]["verdict"]) == (0.5, "tie")
    assert of(with_answers({"lora": [{"a": "0" * 50}] * 3, "rlora": [{"a": "1" * 50}] * 3}), "rlora")["apart"]


def test_only_seeds_that_both_have_count():
    lora = [{"a": 50.0}, {"a": 52.0}, None]
    rlora = [{"a": 60.0}, None, {"a": 61.0}]
    found = of(with_scores({"lora": lora, "rlora": rlora, "mlora": [{"a": 55.0}, {"a": 55.5}, {"a": 57.0}]}), "rlora")
    assert found["seeds"] == [0]
    assert found["mean"]["mean"] == 10.0


def test_one_seed_has_the_spread_of_the_test_examples():
    scores = {"lora": [{"a": 50.0}], "rlora": [{"a": 60.0}]}
    found = of(with_scores(scores, stderr=2.5), "rlora")
    assert found["mean"]["interval"] == pytest.approx(1.972 * (2 * 2.5**2) ** 0.5, rel=1e-3)  # unpaired: both of them
    unknown = of(with_scores(scores, stderr=None), "rlora")
    assert unknown["mean"] == {"mean": 10.0, "interval": None, "verdict": "tie", "p": None}


def test_one_seed_is_paired_by_example_and_has_mcnemars_exact_test():
    """Seven won and none lost of 200: unpaired, this is nothing."""
    lora = "1" * 100 + "0" * 100
    rlora = "1" * 107 + "0" * 93
    found = of(with_answers({"lora": [{"a": lora}], "rlora": [{"a": rlora}]}), "rlora")
    assert found["p"] == pytest.approx(2 * 0.5**7)
    assert found["tasks"]["a"]["verdict"] == "win"
    assert found["apart"]
    few = of(with_answers({"lora": [{"a": lora}], "rlora": [{"a": "1" * 105 + "0" * 95}]}), "rlora")
    assert few["p"] == pytest.approx(2 * 0.5**5)
    assert not few["apart"]


def test_twelve_of_twelve_losses_better_are_told_from_the_base():
    found = results(methods=["base", "lora"], tasks=(), losses=["notes"], seeds=[0])
    base = [2.0 + 0.1 * i for i in range(12)]
    lora = [loss - 0.4 - 0.02 * i for i, loss in enumerate(base)]
    for run, values in zip(found["runs"], (base, lora), strict=True):
        score = run["scores"]["notes"]
        score |= {"n": 12, "score": sum(values) / 12, "outcomes": weighted(values, [5.0] * 12), "stderr": 0.11}
        run["mean"] = score["score"]
    concluded(found)
    (to_base,) = found["differences"]
    assert to_base["method"] == "base"
    assert to_base["p"] == pytest.approx(stats.ttest_rel(base, lora).pvalue, rel=1e-3)
    assert to_base["apart"]
    assert found["recommendation"]["method"] == "lora"


def test_runs_that_were_not_asked_the_same_are_not_compared():
    found = results(methods=["base", "lora", "rlora"])
    found["runs"][-1]["scores"]["sort"]["requests"] = "another"
    each = of(concluded(found), "rlora")
    assert each["mean"] is None
    assert each["missing"] == "not asked the same in sort with seed 2"
    assert set(each["tasks"]) == {"reverse", "a_task_with_a_long_name"}
    assert not each["apart"]
    assert "rlora and lora are not compared: not asked the same in sort with seed 2." in about_differences(found)


def test_no_seed_in_common_says_what_is_missing():
    scores = {"lora": [{"a": 50.0}, None, None], "rlora": [None, {"a": 60.0}, {"a": 60.0}]}
    found = with_scores(scores)
    each = of(found, "rlora")
    assert each["missing"] == "no seed in common: rlora has seeds 1 and 2 and lora has seed 0"
    assert (each["mean"], each["p"], each["apart"]) == (None, None, False)
    assert "lora cannot be compared with rlora: no seed in common" in found["recommendation"]["text"]


def test_a_loss_beside_percentages_counts_by_its_own_test():
    found = results(methods=["base", "lora", "rlora"], tasks=["sort"], losses=["notes"])
    for run in found["runs"]:
        shift = {"base": 1.0, "lora": 0.5, "rlora": 0.0}[run["method"]]
        seed = run["seed"] or 0
        values = [1.0 + shift + 0.01 * (i % 7) + 0.001 * (seed + shift) ** 2 * (i % 3) for i in range(50)]
        run["scores"]["notes"] |= {"n": 50, "score": sum(values) / 50, "outcomes": weighted(values, [1.0] * 50)}
        run["scores"]["sort"] |= {"score": 70.0, "stderr": 3.0}
        run["mean"] = 70.0
    each = of(concluded(found), "rlora")
    assert not each["apart"]
    assert each["beside"] == {"notes": "win"}
    assert of(found, "base")["beside"] == {"notes": "loss"}
    assert found["recommendation"]["method"] is not None  # both are better than the base, by the loss


def test_the_base_is_the_same_for_every_seed_and_its_tests_are_corrected_for_all_methods():
    scores = {"base": [{"a": 10.0}], "lora": [{"a": 50.0}, {"a": 53.0}, {"a": 54.0}]}
    found = of(with_scores(scores, n=10**9), "base")
    wanted = stats.ttest_1samp([-40.0, -43.0, -44.0], 0.0)
    interval = wanted.confidence_interval(0.95)
    assert found["mean"]["interval"] == pytest.approx((interval.high - interval.low) / 2)
    assert found["p"] == pytest.approx(wanted.pvalue, rel=1e-3)
    assert (found["apart"], found["mean"]["verdict"]) == (True, "loss")
    more = with_scores(scores | {"rlora": [{"a": 50.5}, {"a": 52.5}, {"a": 53.0}]}, n=10**9)
    raw = of(more, "base")["mean"]["p"]
    assert of(more, "base")["p"] > 1.01 * raw
    assert raw != pytest.approx(wanted.pvalue, rel=0.1)  # the spread is that of both methods


def test_chance_alone_rarely_tells_any_two_of_ten_methods_apart():
    draw = random.Random(0)
    methods = ["lora", "rslora", "dora", "alignlora", "multilora", "hydralora", "rlora", "mlora", "mtllora", "moelora"]
    told, rounds = 0, 60
    for _ in range(rounds):
        of_seed = [draw.gauss(70, 3) for _ in range(3)]
        alike = with_scores({m: [{"a": seed + draw.gauss(0, 1.5)} for seed in of_seed] for m in methods}, n=10**6)
        best = max(alike["summary"], key=lambda row: row["mean"]["mean"])["method"]
        told += any(each["apart"] for each in against(Evidence(alike), best))
    assert told <= 0.1 * rounds  # 5 % are what is promised


def test_a_difference_far_beyond_chance_is_told():
    draw = random.Random(0)
    shift = {"lora": 0.0, "mlora": 0.0, "rlora": 8.0, "dora": 0.0}
    found = with_scores({m: [{"a": 70 + draw.gauss(up, 1)} for _ in range(3)] for m, up in shift.items()})
    assert {each["method"] for each in found["differences"] if each["apart"]} == {"rlora"}


def test_against_lora_or_the_first_adapter_or_what_is_named():
    assert reference(results(methods=["base", "rlora", "lora"])) == "lora"
    assert reference(results(methods=["base", "full", "rlora", "mlora"])) == "rlora"
    assert reference(results(methods=["base", "full"])) == "full"
    assert reference(results(methods=["lora", "mlora"]), "mlora") == "mlora"
    with pytest.raises(UserError, match=r"--against 'mlroa' is not compared, did you mean 'mlora'"):
        reference(results(methods=["lora", "mlora"]), "mlroa")


def test_a_reference_that_failed_has_no_differences():
    assert with_scores({"lora": None, "rlora": [{"a": 50.0}]})["differences"] == []
