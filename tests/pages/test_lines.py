"""Lines: what is no number leaves a gap, long curves are thinned, and a chart of losses keeps every point it draws."""

import math

from loraweave.pages import figures
from loraweave.pages.lines import FEW_POINTS, MOST_POINTS, loss_chart, mean, thinned


def test_means_leave_out_what_is_no_number():
    assert mean([1.0, None, math.nan, 3.0]) == 2.0
    assert math.isnan(mean([None]))


def test_long_curves_are_means_of_neighbours():
    points = [[step, float(step)] for step in range(1, 1001)]
    thin = thinned(points)
    assert len(thin) <= MOST_POINTS
    assert thin[-1][0] == 1000
    group = math.ceil(1000 / MOST_POINTS)
    assert thin[0] == (group, (1 + group) / 2)
    assert thinned([[5, None], [6, 2.0]])[1] == (6, 2.0)
    assert thinned([]) == []


def test_a_panel_for_each_task_and_a_line_for_each_run():
    curves = {
        "a": {"lora": [(1, 2.0), (2, 1.0)], "rlora": [(1, 3.0), (2, None)]},
        "b": {"rlora": [(1, 4.0)], "lora": []},
        "c": {"lora": []},
    }
    chart = loss_chart("training", "", "run", curves, ["full", "lora", "rlora"])
    assert [panel.title for panel in chart.panels] == ["a", "b"]
    assert chart.series == {1: "lora", 2: "rlora"}
    assert chart.table.heads[1] == "run"
    rows = [tuple(row) for row in chart.table.rows]
    assert rows[:3] == [("a", "lora", 1, 2.0), ("a", "lora", 2, 1.0), ("a", "rlora", 1, 3.0)]
    assert math.isnan(rows[3][3])
    assert rows[4:] == [("b", "rlora", 1, 4.0)]
    lines = chart.inline(chart.panels[0])
    assert "var(--series-1)" in lines
    assert "var(--series-2)" in lines
    assert "var(--series-0)" not in lines


def test_without_a_point_there_is_no_chart():
    assert loss_chart("validation", "", "run", {"a": {"lora": []}}, ["lora"]) is None
    assert loss_chart("validation", "", "run", {}, ["lora"]) is None


def test_high_losses_of_the_first_steps_do_not_press_the_rest_flat():
    def shown(points):
        chart = loss_chart("training", "Losses.", "run", {"a": {"lora": points}}, ["lora"])
        with figures.style():
            axes = figures.new(340, 220).subplots()
            chart.panels[0].draw(axes)
        return axes.get_ylim()[1], chart

    falling = [(step, 7.0 if step <= 5 else 0.5) for step in range(1, 101)]
    top, chart = shown(falling)
    assert 0.5 < top < 1
    assert "off the panels" in chart.note
    assert 7.0 in [row[3] for row in chart.table.rows]  # they are kept
    for all_in_sight in (
        falling[:FEW_POINTS],
        [(step, 2.0) for step in range(1, 101)],
        [(step, 0.0) for step in range(20)],
    ):
        top, chart = shown(all_in_sight)
        assert top > max(loss for _, loss in all_in_sight)
        assert chart.note == "Losses."
