"""The recommendation: the rule, and that the words say what the numbers are."""

import random

import pytest
from comparison.recorded import concluded, results, with_answers, with_scores

from loraweave.comparison.records import Search
from loraweave.comparison.simplicity import simplicity
from loraweave.comparison.summary import notes
from loraweave.comparison.words import about_differences
from loraweave.runs.methods import METHODS

ALL = [name for name in METHODS if name != "base"]


def around(draw: random.Random, **means: float):
    """Three seeds of each method around its mean, one task."""
    return {method: [{"a": draw.gauss(mean, 0.5)} for _ in range(3)] for method, mean in means.items()}


def test_the_simplest_of_those_within_the_margin_is_taken():
    seeds = {"rlora": (80.5, 80.0, 81.5), "mtllora": (80.0, 81.0, 80.5), "lora": (80.5, 79.5, 81.0)}
    found = with_scores({method: [{"a": score} for score in scores] for method, scores in seeds.items()})
    found["settings"]["margin"] = 3
    made = concluded(found)["recommendation"]
    assert made["method"] == "lora"
    text = (
        "rlora has the best mean, 80.7 %, but lora, 80.3 %, is worse than it by less than the margin of 3 points (−0."
    )
    assert text in made["text"]
    assert "mtllora is within it too, but is not simpler." in made["text"]
    assert "plain LoRA" in made["points"][0]


def test_not_told_apart_is_not_as_good():
    """The same numbers, with the margin of one point: that lora is not much worse has to be shown, not assumed."""
    seeds = {"rlora": (80.5, 80.0, 81.5), "mtllora": (80.0, 81.0, 80.5), "lora": (80.5, 79.5, 81.0)}
    made = with_scores({m: [{"a": score} for score in scores] for m, scores in seeds.items()})["recommendation"]
    assert made["method"] == "rlora"
    assert "lora is simpler and cannot be told from rlora (−0.3 ± 1." in made["text"]
    assert "but may be worse by up to 1.9, more than the margin of 1 point." in made["text"]
    assert any("would take" in point and "seeds" in point for point in made["points"])


def test_few_examples_show_nobody_to_be_as_good_and_many_do():
    answers = {"lora": "1" * 79 + "0" * 21, "rlora": "1" * 78 + "0" * 19 + "1" * 3}
    few = with_answers({method: [{"a": each}] for method, each in answers.items()})["recommendation"]
    assert few["method"] == "rlora"
    assert "lora is simpler and cannot be told from rlora" in few["text"]
    many = {method: each + answers["lora"] * 100 for method, each in answers.items()}
    made = with_answers({method: [{"a": each}] for method, each in many.items()})["recommendation"]
    assert made["method"] == "lora"
    assert "by less than the margin of 1 point" in made["text"]


def test_a_better_method_is_taken_however_complicated():
    found = with_scores(around(random.Random(0), lora=70.0, mlora=71.0, hydralora=80.0))["recommendation"]
    assert found["method"] == "hydralora"
    assert "can be told from every other" in found["text"]
    assert "cannot be folded" in found["points"][0]
    worse = next(point for point in found["points"] if point.startswith("Worse than hydralora"))
    assert "lora −" in worse
    assert "mlora −" in worse


def test_what_is_worse_beyond_chance_is_not_taken_because_it_is_simple():
    found = with_scores(around(random.Random(0), lora=60.0, multilora=80.0, rlora=80.2))["recommendation"]
    assert found["method"] == "multilora"
    assert "lora −" in next(point for point in found["points"] if point.startswith("Worse than"))


def test_where_full_fine_tuning_is_best_an_adapter_is_named_too():
    found = with_scores(around(random.Random(0), lora=70.0, mlora=70.0, rlora=60.0, full=80.0))["recommendation"]
    assert found["method"] == "full"
    adapter = next(point for point in found["points"] if point.startswith("If it has to be an adapter"))
    assert adapter.startswith("If it has to be an adapter, take lora. ")
    assert "full" not in adapter
    alone = with_scores(around(random.Random(0), full=80.0))["recommendation"]
    assert not any("adapter, take" in point for point in alone["points"])


def test_a_method_with_a_failed_run_is_passed_over():
    seeds = {"lora": (80.0, None, 81.0), "rslora": (80.5, 79.5, 80.5), "multilora": (81.0, 80.0, 80.5)}
    scores = {method: [s and {"a": s} for s in of_seeds] for method, of_seeds in seeds.items()}
    found = with_scores(scores)
    found["settings"]["margin"] = 5
    found = concluded(found)["recommendation"]
    assert found["method"] == "rslora"
    assert "a run of lora failed" in found["text"]
    assert "Runs that failed: lora 1 of 3." in found["points"]


def test_nothing_is_recommended_that_is_no_better_than_the_base():
    found = with_scores({"base": [{"a": 80.0}], **around(random.Random(0), lora=80.0, rlora=79.0)})["recommendation"]
    assert found["method"] is None
    assert "no method is better than the untouched base, 80.0 %" in found["text"]
    some = with_scores({"base": [{"a": 75.0}], **around(random.Random(0), lora=85.0, rlora=75.0)})["recommendation"]
    assert some["method"] == "lora"
    assert "Not better than the untouched base beyond chance: rlora." in some["points"]


def test_where_nothing_tells_what_is_chance_nobody_is_said_to_be_no_better_than_the_base():
    scores = {"base": [{"a": 600.0}], "lora": [{"a": 25.1}, {"a": 25.3}], "rlora": [{"a": 24.9}, {"a": 25.0}]}
    found = with_scores(scores, stderr=None)
    for run in found["runs"]:
        run["scores"]["a"] |= {"metric": "word_perplexity", "unit": "", "higher_is_better": False}
    made = concluded(found)["recommendation"]
    assert made["method"] is None
    assert made["text"] == ("Take none yet: nothing tells how much of the differences to the untouched base is chance.")
    assert not any("seeds" in point for point in made["points"])  # no number of them would tell
    assert any(note.startswith("a: no interval, for the metric has no standard error") for note in notes(found))
    assert not any("no interval" in note for note in notes(results()))


def test_one_seed_is_said_to_be_one():
    found = with_scores({"lora": [{"a": 80.0}], "rlora": [{"a": 81.0}]}, stderr=2.5)["recommendation"]
    assert "lora is simpler and cannot be told from rlora" in found["text"]
    assert "One seed says something of these adapters only" in found["text"]
    assert "One seed" not in with_scores(around(random.Random(0), lora=80.0, rlora=81.0))["recommendation"]["text"]


def test_a_learning_rate_at_the_edge_is_said_where_it_matters():
    found = with_scores(around(random.Random(0), lora=80.0, rlora=60.0))
    for method in ("lora", "rlora"):
        search = Search(method=method, seed=0, own_rate=1e-3, trials=[], chosen=4e-3, edge="highest")
        found["searches"].append(search)
    points = concluded(found)["recommendation"]["points"]
    assert "The learning rate of lora, 0.004, is the highest that was tried: a higher one may do better." in points
    assert not any("of rlora" in point for point in points)


def test_runs_that_are_still_to_come_are_counted():
    found = with_scores(around(random.Random(0), lora=80.0, rlora=60.0))
    del found["runs"][-2:]
    recommendation = concluded(found)["recommendation"]
    assert recommendation["text"].startswith("So far, take lora.")
    assert "2 runs are not made yet." in recommendation["points"]


def test_without_a_mean_or_a_result_there_is_none():
    assert "no method has a result" in with_scores({"lora": None, "rlora": None})["recommendation"]["text"]
    found = results(methods=["lora", "rlora"])
    for run in found["runs"]:
        for score, metric in zip(run["scores"].values(), ("acc", "bleu", "rouge"), strict=True):
            score["unit"], score["metric"] = "", metric
        run["mean"] = None
    recommendation = concluded(found)["recommendation"]
    assert recommendation["method"] is None
    assert "no unit in common" in recommendation["text"]


def test_one_method_alone():
    found = with_scores(around(random.Random(0), lora=80.0))["recommendation"]
    assert (found["method"], "the only method with a result" in found["text"]) == ("lora", True)


def test_the_order_of_simplicity():
    order = sorted((name for name in ALL if name != "weave"), key=lambda name: simplicity(name))
    assert order == [
        *("lora", "rslora", "dora", "alignlora"),  # PEFT's own
        *("multilora", "mlora"),  # fold into a plain LoRA
        *("mtllora", "moelora", "own", "lori"),  # for each task
        *("hydralora", "rlora", "loramoe", "mola", "smora", "mtlora", "comol"),  # depend on x
        "full",
    ]
    assert simplicity({"name": "weave", "gate": "token", "num_heads": 3}).level == simplicity("rlora").level
    assert simplicity({"name": "multilora", "alignment": 0.1}).level == simplicity("multilora").level
    assert simplicity({"name": "own", "num_heads": 3}).level == simplicity("own").level


@pytest.mark.parametrize(
    ("spec", "needs"),
    [
        ({"name": "lora", "modules_to_save": ["lm_head"]}, "no task ids"),
        ({"name": "multilora", "bias": "all"}, "no task ids"),
        ({"name": "own", "bias": "weave_only"}, "to know the task"),
    ],
)
def test_what_trains_more_than_its_layers_is_called_no_plain_lora(spec, needs):
    found = simplicity(spec)
    assert found.level == simplicity(spec["name"]).level
    assert found.means.startswith(f"needs {needs}; it trains more than its layers")
    assert found.means.endswith("it merges, but is no plain LoRA")


@pytest.mark.parametrize("name", ["lora", "alignlora"])
@pytest.mark.parametrize(
    ("knob", "said"),
    [
        ({"init_lora_weights": "pissa"}, "with init_lora_weights='pissa', which changes the base, no plain LoRA does"),
        ({"trainable_token_indices": [0]}, "with trainable_token_indices no plain LoRA does the same; it merges"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "layer_replication builds a base of other layers, so nothing can be"),
    ],
)
def test_a_lora_that_other_fields_make_more_is_called_no_plain_one(name, knob, said):
    found = simplicity({"name": name, **knob})
    assert found.level == simplicity(name).level
    assert found.means.startswith(f"needs no task ids; {said}")
    assert not found.means.endswith(".")


@pytest.mark.parametrize("seed", range(20))
def test_every_recommendation_reads_as_sentences(seed):
    """Any mix of methods, seeds, gaps and failures: it says something, and what it names is in the comparison."""
    draw = random.Random(seed)
    methods = draw.sample(ALL, draw.randint(1, 6))
    seeds, gap = draw.choice([1, 2, 3, 5]), draw.choice([0.1, 2.0, 20.0])
    scores = {
        m: [{"a": draw.gauss(50 + off, 1), "b": 40 + off} if draw.random() > 0.15 else None for _ in range(seeds)]
        for m in methods
        for off in [draw.uniform(0, gap)]
    }
    found = with_scores({"base": [{"a": 20.0, "b": 20.0}], **scores})["recommendation"]
    assert found["method"] in (*methods, None)
    for sentence in (found["text"], *found["points"]):
        assert sentence.endswith(".")
        assert not any(bad in sentence for bad in ("  ", "None", "nan", "()"))
        assert sentence[0].isupper() or sentence.split()[0] in methods


def test_what_sharing_does_to_each_task_is_told_beside_a_lora_of_its_own_for_each():
    answers = {  # of 200 questions in each of three tasks
        "own": {"a": "1" * 100 + "0" * 100, "b": "1" * 160 + "0" * 40, "c": "1" * 120 + "0" * 80},
        "mlora": {"a": "1" * 160 + "0" * 40, "b": "1" * 100 + "0" * 100, "c": "1" * 120 + "0" * 80},
        "lora": {"a": "1" * 100 + "0" * 100, "b": "1" * 160 + "0" * 40, "c": "1" * 121 + "0" * 79},
    }
    made = with_answers({method: [each] for method, each in answers.items()})["recommendation"]
    (told,) = (point for point in made["points"] if point.startswith("Beside one LoRA for each task"))
    assert "mlora is better on a (transfer) and worse on b (interference)" in told
    assert told.endswith("lora cannot be told from it on any task.")
    without = {method: [each] for method, each in answers.items() if method != "own"}
    points = with_answers(without)["recommendation"]["points"]
    assert not any("transfer" in point for point in points)
    assert "Nothing tells on which tasks sharing helps or hurts: own, one LoRA for each task, has no result." in points
    one = {method: [{"a": each["a"]}] for method, each in answers.items() if method != "own"}
    assert not any("sharing" in point for point in with_answers(one)["recommendation"]["points"]), "of one task"


@pytest.mark.parametrize(("tasks", "told"), [(9, False), (10, True)])
def test_of_many_verdicts_beside_own_it_is_said_how_many_are_chance(tasks, told):
    answers = {"own": "1" * 100 + "0" * 100, "mlora": "1" * 160 + "0" * 40, "lora": "1" * 100 + "0" * 100}
    made = with_answers({m: [{f"task {n}": each for n in range(tasks)}] for m, each in answers.items()})
    (point,) = (each for each in made["recommendation"]["points"] if each.startswith("Beside one LoRA"))
    assert ("Where nothing differs, chance alone makes up to 1 of so many (20) verdicts." in point) == told


def test_of_equal_means_the_simplest_is_best():
    scores = {m: [{"a": 80.0, "b": 70.0}, {"a": 81.0, "b": 70.5}] for m in ("rlora", "mlora", "lora", "full")}
    made = with_scores(scores, stderr=3.0)["recommendation"]
    assert made["method"] == "lora"
    assert "Its mean, 75.4 %, is the best." in made["text"]
    assert "simpler" not in made["text"]


def test_a_method_that_lacks_a_task_is_said_not_to_be_ranked():
    found = with_scores(around(random.Random(0), lora=80.0, rlora=81.0))
    for run in found["runs"]:
        run["scores"]["b"] = {**run["scores"]["a"], "score": 50.0}
    del found["runs"][0]["scores"]["b"]  # of one of lora's three
    made = concluded(found)["recommendation"]
    assert made["method"] == "rlora"
    assert "lora has no mean and is not ranked: one of its runs has no score for b." in made["points"]
    for run in found["runs"]:
        run["scores"].pop("b" if run["method"] == "lora" else "a", None)
    none = concluded(found)["recommendation"]
    assert none["text"] == "No recommendation: no method has a score on every task of the mean."
    assert "rlora has no mean and is not ranked: one of its runs has no score for a." in none["points"]


def test_where_none_is_better_than_the_base_nothing_is_said_of_using_one():
    found = with_scores({"base": [{"a": 80.0}], **around(random.Random(0), lora=80.0, full=80.1)})["recommendation"]
    assert found["method"] is None
    assert not any(point.startswith(("In use", "If it has to be")) for point in found["points"])


def test_what_is_better_than_the_base_by_a_loss_alone_is_said_to_be_so():
    found = results(methods=["base", "lora"], tasks=["a"], losses=("notes",))
    for run in found["runs"]:
        run["scores"]["a"] |= {"score": 50.0 + (run["seed"] or 0), "stderr": 5.0}
        run["scores"]["notes"] |= {"score": 3.0 if run["seed"] is None else 1.0 + 0.01 * run["seed"], "stderr": 0.01}
    beside = "It is better than the untouched base on notes, beside the mean, by which the two cannot be told apart."
    assert beside in concluded(found)["recommendation"]["text"]
    for run in found["runs"]:
        run["scores"]["a"]["score"] += 45.0 * (run["seed"] is not None)
    assert "beside the mean" not in concluded(found)["recommendation"]["text"]


def test_methods_that_cannot_be_held_against_the_base_are_said():
    found = with_scores({"base": [{"a": 40.0}], **around(random.Random(0), lora=80.0, rlora=60.0)})
    for run in found["runs"]:
        if run["method"] == "rlora":
            run["scores"]["a"]["requests"] = "another"
    points = concluded(found)["recommendation"]["points"]
    assert "rlora cannot be compared with the untouched base: not asked the same in a with seed 0." in points
    found["runs"] = [run for run in found["runs"] if run["method"] != "base"]
    made = concluded(found)["recommendation"]
    assert made["method"] == "lora"
    assert "The untouched base has no score: nothing here says that any method is better than it." in made["points"]


def test_methods_without_a_seed_in_common():
    found = with_scores({"base": [{"a": 40.0}], **around(random.Random(0), lora=80.0, rlora=82.0)})
    for run in found["runs"]:
        if run["method"] == "rlora":
            run["seed"] += 3
    found["settings"]["seeds"] = [*range(6)]
    made = concluded(found)
    text = made["recommendation"]["text"]
    assert "lora cannot be compared with rlora: no seed in common: lora has seeds 0, 1 and 2 and rlora" in text
    assert "told" not in text
    assert "from 3 seeds" in about_differences(made)[0]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_examples_tell_little(n):
    answers = {"base": [{"a": "0" * n}], "lora": [{"a": "1" * n}], "rlora": [{"a": "1" * n}]}
    made = with_answers(answers)["recommendation"]
    assert (made["method"], "no method is better than the untouched base" in made["text"]) == (None, True)


def test_losses_alone():
    found = results(methods=["base", "lora", "rlora"], tasks=(), losses=("a", "b"))
    for run in found["runs"]:
        for score in run["scores"].values():
            score["score"], score["stderr"] = {"base": 3.0, "lora": 1.0, "rlora": 1.5}[run["method"]], 0.01
            score["score"] += 0.001 * (run["seed"] or 0)
    made = concluded(found)["recommendation"]
    assert made["method"] == "lora"
    assert (
        "Its mean, 1.001 nats, is the best, and can be told from every other: rlora, the next, is at +0.500"
        in made["text"]
    )
    assert any(
        point.startswith("Worse than lora beyond chance, in nats per token: rlora +0.5") for point in made["points"]
    )
