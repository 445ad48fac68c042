"""What `make bench` times can be built and takes a step, for every method; and the report has a row for each."""

import pytest

from loraweave.config import PRESETS


def test_a_layer_takes_a_step_under_every_subject_of_the_family():
    from speed.layers import layer_steps

    where = {"d_in": 16, "d_out": 24, "batch": 8, "tokens": 4}
    for tasks in (2, 16):
        own = layer_steps(**where, rank=8 * tasks, heads=tasks, names=["own@0.05"], num_tasks=tasks)
        own["own@0.05"]()
    for step in layer_steps(**where, rank=16, heads=16, names=["lora@0.05", "smora@0.05"]).values():
        step()


def test_a_model_takes_a_step_under_every_method(tiny_model):
    from speed.models import training_steps

    steps = training_steps(tiny_model(), batch=4, tokens=6, device="cpu", autocast=False)
    assert [*steps] == ["lora", "dora", *PRESETS]
    for step in steps.values():
        step()


@pytest.mark.parametrize("name", ["multilora", "loramoe", "mola", "smora", "comol"])
def test_methods_are_compared_at_the_same_total_rank(name):
    from speed.models import HEADS, RANK, method_of

    method = method_of(name)
    by_depth = method.get("heads_by_depth", [method.get("num_heads", 1)])
    heads = 1 if name == "comol" else sum(by_depth) / len(by_depth)  # its heads are r × r
    assert heads * method["r"] == RANK
    assert method.get("num_heads", HEADS) >= method.get("top_k", 0)


def test_the_report_has_the_goals_of_the_family():
    from speed.report import tables

    def ratio(value: float) -> dict[str, float]:
        return {"ratio": value}

    own = [{"ids": "an id per sequence", "2": ratio(1.0), "16": ratio(1.04), "64": ratio(1.2)}]
    sparse = [{"shape": "a", "smora@0.05": ratio(1.01)}, {"shape": "b", "smora@0.05": ratio(0.9)}]
    text = tables({"family": {"results": {"own": own, "sparse": sparse}}})
    assert "| own, 64 tasks of rank 8 against 2, an id per sequence | 1.10 | 1.20 | **falls short** |" in text
    assert "the worst shape | 1.05 | 1.01 (a) | met |" in text
    assert "| an id per sequence | 1.00 | 1.04 | 1.20 |" in text
    assert "| smora | 1.01 | 0.90 |" in text
