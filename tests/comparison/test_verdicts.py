"""What stands below the table on the terminal."""

import io

import pytest
from comparison.recorded import results, with_scores
from rich.console import Console

from loraweave.comparison import differences_table, recommendation


def printed(part, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(part)
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_differences_fit_and_are_those_of_the_results(width):
    found = results(methods=["base", "lora", "rlora", "hydralora"])
    text = printed(differences_table(found), width)
    assert max(map(len, text.splitlines())) <= width
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert text.index("against") < text.index("lora") < text.index("wins")
    for each in found["differences"]:
        cells = lines[each["method"]]
        assert cells[1].replace("−", "-") == f"{each['mean']['mean']:+.1f}"
        assert cells[2] == f"±{each['mean']['interval']:.1f}"
        verdicts = [difference["verdict"] for difference in each["tasks"].values()]
        assert [int(cell) for cell in cells[3:]] == [verdicts.count(each) for each in ("win", "tie", "loss")]


def test_says_of_what_the_intervals_speak():
    several = " ".join(printed(differences_table(results()), 200).split())
    assert "95 % interval for other seeds and examples, from 3 seeds" in several
    one = " ".join(printed(differences_table(results(seeds=[0])), 200).split())
    assert "for other examples and these very adapters" in one


def test_a_base_that_is_loaded_in_a_way_of_its_own_is_named_with_it():
    found = results()
    how = {"dtype": "auto", "quantization": "nf4", "attn": None, "revision": None}
    found["settings"]["config"]["model"] = {"name": "/models/nano", **how}
    assert "This holds for nano (quantization nf4) trained for 19 steps" in printed(recommendation(found), 200)


def test_a_difference_without_an_interval_has_none():
    found = with_scores({"lora": [{"a": 50.0}], "rlora": [{"a": 60.0}]})
    found["differences"][0]["mean"]["interval"] = None
    line = next(line for line in printed(differences_table(found), 80).splitlines() if line.startswith("rlora"))
    assert line.split() == ["rlora", "+10.0", "1", "0", "0"]


def test_the_recommendation_is_a_paragraph_and_points():
    found = results()
    text = " ".join(printed(recommendation(found), 100).replace("•", "").split())
    for part in (found["recommendation"]["text"], *found["recommendation"]["points"]):
        assert " ".join(part.split()) in text
