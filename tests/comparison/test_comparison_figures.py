"""The page's figures: what is drawn, and names that can be read."""

import re

import numpy as np
import pytest
from comparison.recorded import concluded, recorded_search, results, with_answers
from matplotlib.axes import Axes

from loraweave.comparison.cost_charts import cost_chart
from loraweave.comparison.labels import Point, label_points
from loraweave.comparison.loss_charts import final_losses, loss_charts, mean_curve, smoothed
from loraweave.comparison.search import add_trial
from loraweave.comparison.search_charts import search_chart
from loraweave.pages import figures

ELEVEN = "lora rslora dora alignlora multilora mlora mtllora moelora hydralora rlora full".split()


def test_costs_are_those_of_the_summary():
    found = results(methods=["base", "lora", "rlora"], failed=("rlora", 2))
    chart = cost_chart(found)
    assert [panel.title for panel in chart.panels] == ["Trainable parameters", "Training time", "Peak memory"]
    for row, summary in zip(chart.table.rows, found["summary"][1:], strict=True):
        mean = summary["mean"]
        costs = [summary[key] for key in ("trainable_parameters", "seconds", "peak_memory")]
        assert list(row) == [summary["method"], mean["mean"], mean["low"], mean["high"], *costs]


def test_bars_reach_as_far_up_and_down_as_the_interval_does():
    """Near 100 % an interval is lopsided: none of it lies above."""
    found = with_answers({"lora": [{"a": "1" * 200}], "rlora": [{"a": "1" * 196 + "0" * 4}]})
    means = {row["method"]: row["mean"] for row in found["summary"]}
    with figures.style():
        axes = figures.new(380, 320).subplots()
        cost_chart(found).panels[0].draw(axes)
    reached = [bar.get_segments()[0][:, 1] for bar in axes.collections]
    expected = [[means[method]["low"], means[method]["high"]] for method in ("lora", "rlora")]
    assert np.array(reached) == pytest.approx(np.array(expected))
    assert max(map(max, reached)) <= 100


def test_every_method_is_named_beside_its_point():
    chart = cost_chart(results(methods=["base", *ELEVEN]))
    for panel in chart.panels:
        drawn = chart.inline(panel)
        assert all(f">{method}<" in drawn for method in ELEVEN)
        assert "mean score, %" in drawn
        assert "base" not in re.findall(r">([^<]*)<", drawn)


def test_one_method_alone_is_no_figure():
    assert cost_chart(results(methods=["base", "lora"])) is None
    assert cost_chart(results(methods=["lora", "rlora"], seeds=[0], failed=("lora", 0))) is None


def test_a_cost_that_spans_orders_of_magnitude_has_a_logarithmic_axis():
    found = results(methods=["lora", "full"])
    for run in found["runs"]:
        run["trainable_parameters"] = {"lora": 160_000, "full": 9_400_000}[run["method"]]
    with figures.style():
        axes = figures.new(380, 320).subplots()
        cost_chart(concluded(found)).panels[0].draw(axes)
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0])
def test_names_lie_over_neither_each_other_nor_the_points(spread):
    """Eleven methods with the same parameters, and scores that are close: the usual case of --match-params."""
    points = [Point(1000.0 * (1 + spread * (i % 3)), 75.0 + 0.2 * i, name) for i, name in enumerate(ELEVEN)]
    with figures.style():
        axes: Axes = figures.new(380, 320).subplots()
        axes.plot([point.x for point in points], [point.y for point in points], "o", ms=6)
        axes.margins(x=0.18, y=0.08)
        label_points(axes, points)
        axes.figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in axes.texts]
    frame = axes.get_window_extent()
    assert [text.get_text() for text in axes.texts] != []
    for i, box in enumerate(boxes):
        assert all(_overlap(box, other) < 12 for other in boxes[i + 1 :]), axes.texts[i]
        middles = [axes.transData.transform((point.x, point.y)) for point in points]
        assert not any(box.contains(*middle) for middle in middles), axes.texts[i]
        assert frame.x0 - 20 < box.x0
        assert box.x1 < frame.x1 + 20


def _overlap(one, other) -> float:
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(wide, 0.0) * max(high, 0.0)


def test_a_search_has_all_its_rates_the_chosen_one_and_those_that_failed():
    found = results(methods=["base", "lora", "rlora"])
    found["searches"] = [
        recorded_search("lora", {1e-3: 0.5, 2e-3: 0.4, 4e-3: None}),
        recorded_search("rlora", {2e-3: 0.7, 4e-3: 0.6}),
    ]
    chart = search_chart(found)
    assert [panel.title for panel in chart.panels] == ["lora", "rlora"]
    assert [row[:4] for row in chart.table.rows] == [
        ["lora", 1e-3, 0.5, "no"],
        ["lora", 2e-3, 0.4, "yes"],
        ["lora", 4e-3, None, "no"],
        ["rlora", 2e-3, 0.7, "no"],
        ["rlora", 4e-3, 0.6, "yes"],
    ]
    with figures.style():
        axes = figures.new(200, 150).subplots()
        chart.panels[0].draw(axes)
        line, ring, crosses = axes.lines
    assert [*line.get_xdata()] == [1e-3, 2e-3]
    assert [*ring.get_xdata()] == [2e-3]
    assert [*crosses.get_xdata()] == [4e-3]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate", "validation loss")
    assert all("0.002" in chart.inline(panel) for panel in chart.panels)


def test_a_panel_shows_what_decided_and_losses_far_above_are_off_it_and_said_to_be():
    found = results(methods=["base", "lora", "rlora"])
    found["searches"] = [
        recorded_search("lora", {5e-4: 0.41, 1e-3: 0.40, 2e-3: 9.0}),
        recorded_search("rlora", {1e-3: 2.0, 2e-3: 2.1}),
    ]
    chart = search_chart(found)
    assert "far above the best are off the panels" in chart.note
    limits = []
    with figures.style():
        for panel in chart.panels:
            axes = figures.new(250, 180).subplots()
            panel.draw(axes)
            limits.append(axes.get_ylim())
    (low, high), other = limits
    assert low < 0.40 < 0.41 < high < 0.6  # the two can be told
    assert other[0] < 2.0 < 2.1 < other[1] < 2.2
    assert 9.0 in [row[2] for row in chart.table.rows]
    found["searches"] = [recorded_search("lora", {1e-3: 0.5, 2e-3: 0.4})]
    assert "off the panels" not in search_chart(found).note


def test_a_search_of_one_rate_is_a_table():
    found = results(methods=["base", "lora", "rlora"])
    found["searches"] = [recorded_search("lora", {1e-3: 0.5}), recorded_search("rlora", {1e-3: 0.4, 2e-3: None})]
    chart = search_chart(found)
    assert chart.panels == []
    assert [row[:3] for row in chart.table.rows] == [["lora", 1e-3, 0.5], ["rlora", 1e-3, 0.4], ["rlora", 2e-3, None]]


def test_whole_trainings_that_decided_are_drawn_whether_the_rounds_had_their_rates_or_not():
    found = results(methods=["base", "lora"])
    search = recorded_search("lora", {2e-3: 9.0, 1e-3: 0.9, 5e-4: 0.8})
    search["rounds"] = [10]
    shorter = recorded_search("lora", {2e-3: 2.0, 4e-3: 2.2})
    for trial in shorter["trials"]:
        add_trial(search, {**trial, "steps": 10})
    assert search["chosen"] == 5e-4  # below all that were tried in the round
    found["searches"] = [search]
    chart = search_chart(found)
    with figures.style():
        axes = figures.new(250, 180).subplots()
        chart.panels[0].draw(axes)
        short, whole, ring, _ = axes.lines
    assert [*short.get_ydata()] == [2.0, 2.2]
    assert [*whole.get_ydata()] == [0.8, 0.9, 9.0]
    assert ([*ring.get_xdata()], [*ring.get_ydata()]) == ([5e-4], [0.8])
    low, high = axes.get_ylim()
    assert low < 0.8 < 2.2 < high < 9.0
    assert "off the panels" in chart.note


def with_curves(shift: dict[str, float], points: int = 40):
    found = results(methods=["base", *shift], seeds=[0, 1], tasks=["sort"])
    for run in found["runs"]:
        if run["method"] in shift:
            losses = [3 / step + shift[run["method"]] + 0.01 * run["seed"] for step in range(1, points + 1)]
            run["curves"]["training"] = {"sort": [(step, loss) for step, loss in enumerate(losses, start=1)]}
            run["curves"]["validation"] = {"sort": [(points, losses[-1])]}
    return found


def test_losses_are_drawn_as_differences_to_the_reference():
    (chart,) = loss_charts(with_curves({"lora": 0.5, "rlora": 0.3, "mlora": 0.6}))
    assert "Loss minus that of lora" in chart.note
    assert set(chart.series.values()) == {"rlora", "mlora"}
    off = {method: loss for _, method, _, loss in chart.table.rows}
    assert off == {"rlora": pytest.approx(-0.2), "mlora": pytest.approx(0.1)}
    (alone,) = loss_charts(with_curves({"lora": 0.5}))
    assert alone.title == "Training loss by task"


def test_losses_are_compared_over_the_seeds_that_both_have():
    """Seeds differ far more than methods do here: where one has no second seed, the other's has no part either."""
    found = with_curves({"lora": 0.5, "rlora": 0.3})
    for run in found["runs"]:
        for curve in (*run["curves"]["training"].values(), *run["curves"]["validation"].values()):
            curve[:] = [(step, loss + 10.0 * (run["seed"] or 0)) for step, loss in curve]
    found["runs"] = [run for run in found["runs"] if (run["method"], run["seed"]) != ("rlora", 1)]
    (chart,) = loss_charts(concluded(found))
    assert [loss for _, _, _, loss in chart.table.rows] == pytest.approx([-0.2] * len(chart.table.rows))
    assert "over the seeds that both have" in chart.note


def test_a_mean_over_seeds_does_not_jump_from_one_to_the_other_where_they_log_at_other_steps():
    one = [(step, 2 - step / 100) for step in (25, 50, 75)]
    other = [(step, 3 - step / 100) for step in (26, 52, 78)]
    mean = mean_curve([one, other])
    assert [step for step, _ in mean] == [26, 50, 52, 75]  # that both cover
    assert [loss for _, loss in mean] == pytest.approx([2.5 - step / 100 for step, _ in mean])
    assert mean_curve([one, one]) == one
    assert mean_curve([one, []]) == one
    assert mean_curve([]) == mean_curve([one, [(90, 1.0), (100, 1.0)]]) == []


def test_the_end_of_a_training_is_that_of_each_seed():
    """A seed that stopped early has its own last tenth; of validation losses the last stands for the end."""
    found = with_curves({"lora": 0.5})
    first, second = (run for run in found["runs"] if run["method"] == "lora")
    first["curves"]["training"] = {"sort": [(step, 1.0) for step in range(1, 101)]}
    second["curves"]["training"] = {"sort": [(step, 3.0) for step in range(1, 51)]}
    for run in (first, second):
        run["curves"]["validation"] = {}
    assert final_losses(found).rows[0][1] == pytest.approx(2.0)
    for run, loss in ((first, 1.0), (second, 3.0)):
        run["curves"]["validation"] = {"sort": [(99, 50.0), (100, loss)]}
    assert final_losses(found).rows[0][1] == pytest.approx(2.0)


def test_final_losses_are_those_of_validation_or_of_the_trainings_end():
    found = with_curves({"lora": 0.5, "rlora": 0.3})
    table = final_losses(found)
    assert table.heads == ["validation loss, nats per token", "sort"]
    assert [row[0] for row in table.rows] == ["lora", "rlora"]
    assert [row[1] for row in table.rows] == pytest.approx([3 / 40 + 0.505, 3 / 40 + 0.305])
    for run in found["runs"]:
        run["curves"]["validation"] = {}
    table = final_losses(found)
    assert table.heads[0] == "training loss, nats per token"
    assert table.rows[0][1] == pytest.approx(0.505 + sum(3 / step for step in (37, 38, 39, 40)) / 4)
    for run in found["runs"]:
        run["curves"]["training"] = {}
    assert final_losses(found) is None


def test_smoothing_keeps_straight_lines_and_calms_what_jumps():
    line = [(step, 2.0 * step) for step in range(100)]
    assert [loss for _, loss in smoothed(line)] == pytest.approx([loss for _, loss in line])
    jumping = smoothed([(step, (-1.0) ** step) for step in range(100)])
    assert max(abs(loss) for _, loss in jumping[10:-10]) < 0.2


def test_ticks_are_where_their_rounded_names_say():
    found = results(methods=["lora", "rlora"])
    for run in found["runs"]:
        run["peak_memory"] = {"lora": 2.02e9, "rlora": 2.63e9}[run["method"]]
        run["seconds"] = {"lora": 61.0, "rlora": 124.0}[run["method"]]
    with figures.style():
        for panel, names in ((1, {"60 s", "90 s", "2 min 00 s"}), (2, {"2.0 GB", "2.2 GB", "2.4 GB", "2.6 GB"})):
            axes = figures.new(380, 320).subplots()
            cost_chart(concluded(found)).panels[panel].draw(axes)
            axes.figure.draw_without_rendering()
            assert names <= {label.get_text() for label in axes.get_xticklabels()}


def test_without_a_search_there_is_none():
    assert search_chart(results()) is None
    found = results()
    found["searches"] = [recorded_search("lora", {1e-3: None})]
    assert search_chart(found) is None
