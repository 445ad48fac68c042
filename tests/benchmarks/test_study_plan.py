"""The plan holds together, its page is what it says, and verdicts follow its rule."""

import json
import re
from pathlib import Path

import pytest
from comparison.recorded import with_answers

from loraweave.runs.methods import choose_method


def test_the_tables_of_the_plan_are_printed_from_it():
    from study.plan_page import PLAN, with_tables

    text = PLAN.read_text()
    assert with_tables(text) == text, "print them again: cd benchmarks && python -m study --plan"


def test_the_page_is_made_from_the_records():
    from study.page import page
    from study.place import PAGE, REPOSITORY, Place
    from study.plan import BUDGETS

    place = Place(BUDGETS["small"], REPOSITORY / "runs" / "study", REPOSITORY)
    assert PAGE.read_text() == page(place), "make it again: cd benchmarks && python -m study --page"


def test_what_is_committed_names_no_path_of_a_machine():
    from study.place import RECORDS

    committed = [*RECORDS.glob("*.json"), RECORDS.parent / "analysis" / "analysis.json"]
    assert len(committed) > 4
    for path in committed:
        assert re.findall(r'"(?:/|[A-Z]:\\\\)[^"]*"', path.read_text()) == [], path.name


def test_the_paths_of_another_checkout_are_words_too(tmp_path):
    from study.place import REPOSITORY, Place
    from study.plan import BUDGETS

    place = Place(BUDGETS["small"], tmp_path / "work", tmp_path, tmp_path)
    paths = [f"{REPOSITORY}/benchmarks/study/tasks/a.yaml", "/else/where/benchmarks/study/../b.yaml", f"{place.base}"]
    assert json.loads(place.portable(json.dumps(paths))) == [
        "<repository>/benchmarks/study/tasks/a.yaml",
        "<repository>/benchmarks/study/../b.yaml",
        "<work>/base",
    ]


def test_the_table_of_the_readme_is_made_from_the_records():
    from study.place import REPOSITORY, Place
    from study.plan import BUDGETS
    from study.readme import README, with_table

    place = Place(BUDGETS["small"], REPOSITORY / "runs" / "study", REPOSITORY)
    assert README.read_text() == with_table(README.read_text(), place), "cd benchmarks && python -m study --page"


def test_the_figures_on_the_pages_of_methods_are_made_from_the_records():
    from study.method_pages import pages, with_figures
    from study.place import REPOSITORY, Place
    from study.plan import BUDGETS
    from study.verdicts import evidence_of

    found = evidence_of(Place(BUDGETS["small"], REPOSITORY / "runs" / "study", REPOSITORY))
    assert {"multilora", "rlora", "hydralora", "mtllora"} <= pages().keys()
    for method, path in pages().items():
        text = path.read_text()
        assert text == with_figures(text, method, found), "cd benchmarks && python -m study --page"


def test_a_methods_page_says_what_its_scores_are_beside_loras_and_from_how_many_seeds(tmp_path):
    from study.method_pages import with_figures
    from study.place import Place
    from study.plan import BUDGETS
    from study.verdicts import evidence_of

    place = Place(BUDGETS["small"], tmp_path, tmp_path, tmp_path)
    answers = {"lora": seeds(*["10" * 200] * 2), "rlora": seeds("1110" * 100), "own": seeds(*["1110" * 100] * 2)}
    place.record("apart").write_text(json.dumps(with_answers(BASE | answers)))
    marks = "<!-- study -->\n<!-- end of study -->\n"
    one, two = (with_figures(marks, method, evidence_of(place)) for method in ("rlora", "own"))
    assert "- tasks apart, 75.0 and 50.0, +25.0 ± 4.3 (1 seed: the interval is of its examples alone)" in one
    assert "- tasks apart, 75.0 and 50.0, +25.0 ± " in two
    assert "(2 seeds)" in two
    assert "- tasks that share their texts, not run yet" in two


def test_a_method_is_in_the_readme_from_two_seeds_on(tmp_path):
    from study.place import Place
    from study.plan import BUDGETS
    from study.readme import with_table

    place = Place(BUDGETS["small"], tmp_path, tmp_path, tmp_path)
    answers = BASE | {"lora": seeds(*["10" * 200] * 2), "rlora": seeds("1110" * 100), "own": seeds(*["1110" * 100] * 2)}
    place.record("apart").write_text(json.dumps(with_answers(answers)))
    text = with_table("before\n<!-- study -->\nold\n<!-- end of study -->\nafter\n", place)
    before, start, *rows, end, after = text.splitlines()
    assert (before, start, end, after) == ("before", "<!-- study -->", "<!-- end of study -->", "after")
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| `base`", "| `lora`", "| `own`"]
    assert rows[3].split(" | ")[1] == "50.0"
    assert rows[4].split(" | ")[1].startswith("75.0 (+25.0 ± ")
    assert rows[3].split(" | ")[2] == "–"  # nothing was run on the other tasks


def test_every_method_of_a_claim_is_run_with_every_seed_in_its_regime():
    from study.plan import BUDGETS, METHODS, stages, tests

    for budget in BUDGETS.values():
        runs = {(stage.regime, method, stage.seed) for stage in stages(budget) for method in stage.methods}
        assert len(runs) == sum(len(stage.methods) for stage in stages(budget))  # none twice
        for test in tests():
            for method in (test.left, test.right):
                assert {(test.regime, method, seed) for seed in budget.seeds} <= runs
    assert {method for _, method, _ in runs} == {*METHODS}


def test_methods_are_called_as_in_the_tables_and_can_be_chosen():
    from study.plan import METHODS

    for name, spec in METHODS.items():
        chosen = choose_method(spec)
        assert chosen.name == name
        chosen.peft_config(["a", "b"])


def test_ablations_differ_from_their_method_in_nothing_else():
    from study.plan import METHODS

    def fields(name: str) -> dict:
        config = choose_method(METHODS[name]).peft_config(["a"])
        return {key: value for key, value in config.to_dict().items() if key != "method"}

    def differing(one: str, two: str) -> set[str]:
        first, second = fields(one), fields(two)
        return {key for key in first | second if first.get(key) != second.get(key)}

    dropout = {"head_dropout", "lora_dropout"}
    assert differing("rlora", "rlora-no-start") == {"start"}
    assert differing("rlora", "rlora-no-dropout") == dropout
    assert differing("rlora-no-start", "hydralora") == dropout
    assert differing("rlora-no-dropout", "hydralora") == {"start"}
    assert differing("rlora", "mlora") == {"gate"}
    assert differing("hydralora", "hydralora-blocks") == {"target_modules"}
    assert differing("hydralora-blocks", "mtlora") == {"gate_groups"}  # and the spectral loss
    assert differing("lora", "alignlora") == set()  # and its loss


def test_losses_are_beside_those_of_lora_seed_by_seed_and_the_lowest_comes_first(tmp_path):
    from study.page import page
    from study.place import Place
    from study.plan import BUDGETS

    place = Place(BUDGETS["small"], tmp_path, tmp_path, tmp_path)
    results = with_answers(BASE | {"lora": seeds("10" * 200, "10" * 200), "rlora": seeds("10" * 200)})
    losses = {("lora", 0): 0.5, ("lora", 1): 0.7, ("rlora", 0): 0.4}
    for run in results["runs"]:
        loss = losses.get((run["method"], run["seed"]))
        run["validation_loss"] = loss
        run["curves"]["validation"] = {} if loss is None else {"t": [(60, 9.0), (120, loss)]}
    place.record("apart").write_text(json.dumps(results))
    text = page(place)
    rows = text[text.index("## Loss on validation rows: tasks apart") :].splitlines()[4:6]
    assert rows == [
        "| `rlora` | 0.400 | 0.400 | −0.100 | 1 |",
        "| `lora` | 0.600 | 0.600 | – | 2 |",
    ]


def test_a_rate_is_taken_over_once_its_search_has_ended(tmp_path):
    """Runs wait for the whole of a search; one that was stopped has a choice too, of what it had tried."""
    from study.place import Place
    from study.plan import BUDGETS, Stage
    from study.runs import take_over

    place = Place(BUDGETS["small"], tmp_path / "work", tmp_path, tmp_path)
    here = place.comparison("shared") / "results.json"
    here.parent.mkdir(parents=True)
    stopped = {"method": "lora", "chosen": None, "trials": []}  # before its first training had ended
    here.write_text(json.dumps({"searches": [stopped]}))
    trials = [{"learning_rate": 0.002, "validation_loss": 0.5}]
    searches = [{"method": method, "chosen": 0.002, "trials": trials} for method in ("lora", "rlora", "own")]
    runs = [
        {"method": "lora", "learning_rate": 0.002, "status": "finished"},
        {"method": "rlora", "learning_rate": 0.001, "status": "finished"},
        {"method": "own", "learning_rate": 0.002, "status": "finished"},
    ]
    place.record("apart").write_text(json.dumps({"searches": searches, "runs": runs}))
    for _ in range(2):  # not twice
        take_over(place, Stage("shared", ("lora", "rlora"), 0, "why"))
        assert json.loads(here.read_text())["searches"] == [searches[0] | {"taken_from": "apart"}]


def test_the_losses_of_a_search_are_shown_where_it_was_made(tmp_path):
    from study.page import page
    from study.place import Place
    from study.plan import BUDGETS

    place = Place(BUDGETS["small"], tmp_path, tmp_path, tmp_path)
    results = with_answers(BASE | {"lora": seeds("10" * 200)})
    for run in results["runs"]:
        run["validation_loss"] = None
    trials = [{"learning_rate": rate, "validation_loss": loss} for rate, loss in ((0.001, 0.5), (0.002, None))]
    made = {"method": "lora", "seed": 0, "own_rate": 0.001, "trials": trials, "chosen": 0.001, "edge": None}
    for regime, search in (("apart", made), ("shared", made | {"taken_from": "apart"})):
        place.record(regime).write_text(json.dumps(results | {"searches": [search]}))
    text = page(place)
    rows = text[text.index("## Learning rates") :].splitlines()
    assert rows[2] == "| method | chosen on | default | 1 × | 2 × | chosen |"
    assert rows[4:6] == ["| `lora` | tasks apart | 0.001 | 0.500 | failed | 0.001 |", ""]


def judged(tmp_path: Path, answers, geometry=None):
    """Findings of the tests between rlora and hydralora, from made-up answers on tasks apart."""
    from study.place import Place
    from study.plan import BUDGETS
    from study.verdicts import evidence_of, judge

    place = Place(BUDGETS["small"], tmp_path, tmp_path, tmp_path)
    results = with_answers(answers)
    for run in results["runs"]:
        run["adapter"] = f"runs/{run['method']}-seed{run['seed']}/adapter"
    place.record("apart").write_text(json.dumps(results))
    if geometry is not None:
        place.write_geometry("apart", geometry)
    return judge(place, evidence_of(place))


def seeds(*answers: str):
    return [{"t": each} for each in answers]


BASE = {"base": seeds("0" * 400)}


def of(findings, left, right, measure=None):
    return next(
        found
        for test, found in findings.items()
        if (test.left, test.right, test.regime, test.measure) == (left, right, "apart", measure)
    )


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [
        (("1" * 320 + "0" * 80,) * 3, ("1" * 280 + "0" * 120,) * 3, "seen here"),
        (("1" * 280 + "0" * 120,) * 3, ("1" * 320 + "0" * 80,) * 3, "not seen"),
        (("1" * 300 + "0" * 100,) * 3, ("0" * 20 + "1" * 290 + "0" * 90,) * 3, "cannot be told at this size"),
        (("1" * 320 + "0" * 80,), ("1" * 280 + "0" * 120,), "cannot be told at this size"),
    ],
)
def test_a_gain_is_seen_where_chance_is_ruled_out(tmp_path, better, worse, verdict):
    found = of(judged(tmp_path, BASE | {"rlora": seeds(*better), "hydralora": seeds(*worse)}), "rlora", "hydralora")
    assert found.verdict == verdict
    assert found.seeds == tuple(range(len(better)))
    assert found.left == pytest.approx(100 * better[0].count("1") / 400)


def test_no_worse_wants_an_interval_within_the_margin(tmp_path):
    alike = ("1" * 7000 + "0" * 3000,) * 3
    findings = judged(tmp_path, {"base": seeds("0" * 10000), "lora": seeds(*alike), "rlora": seeds(*alike)})
    assert of(findings, "lora", "rlora").verdict == "seen here"
    findings = judged(tmp_path, BASE | {"lora": seeds(*["10" * 200] * 3), "rlora": seeds(*["01" * 200] * 3)})
    assert of(findings, "lora", "rlora").verdict == "cannot be told at this size"


def test_measures_of_adapters_are_compared_seed_by_seed(tmp_path):
    answers = BASE | {"rlora": seeds(*["10" * 200] * 3), "hydralora": seeds(*["10" * 200] * 3)}
    geometry = {
        f"apart {method}-seed{seed}": {"head_similarity": base + 0.001 * seed, "learned_similarity": None}
        for method, base in (("rlora", 0.2), ("hydralora", 0.8))
        for seed in (0, 1, 2)
    }
    geometry["apart rlora-seed1"]["head_similarity"] += 0.004
    findings = judged(tmp_path, answers, geometry)
    found = of(findings, "rlora", "hydralora", "head_similarity")
    assert found.verdict == "seen here"  # the claim is of less
    assert found.difference.mean == pytest.approx(-0.6, abs=0.01)
    assert of(findings, "rlora", "hydralora", "learned_similarity").verdict == "no runs yet"


def test_p_values_are_corrected_for_tests_without_runs_too(tmp_path):
    from study.plan import tests

    answers = BASE | {"rlora": seeds("1" * 320 + "0" * 80), "hydralora": seeds("1" * 300 + "0" * 100)}
    found = of(judged(tmp_path, answers), "rlora", "hydralora")
    assert found.p == pytest.approx(min(1.0, len(tests()) * found.difference.p))
