"""Charts keep their numbers, names fit beside axes, and colours of heat maps say what the scale says."""

import csv
import io
import math
import xml.etree.ElementTree as Tree

import pytest

from loraweave.pages import figures
from loraweave.pages.charts import IN_SIGHT, MOST_ROWS, Chart, Panel, Table, short, split, written
from loraweave.pages.heat import Scale, heat_map
from loraweave.pages.palette import COLOURS


@pytest.mark.parametrize(
    ("cell", "text"), [(None, "–"), (math.nan, "–"), (-0.123456, "−0.1235"), (12345, "12,345"), ("a", "a")]
)
def test_cells_as_people_read_them(cell, text):
    assert written(cell) == text


def test_long_names_keep_both_ends():
    assert short("short") == "short"
    assert len(short("x" * 100, 18)) == 18
    assert short("begin" + "x" * 100 + "end", 9) == "begi…xend"
    assert short("two\nlines\t\x00") == "two lines"


def test_a_table_shows_its_first_rows_and_keeps_all():
    table = Table(["name", "value"], [[f'"{n}", <&>', n / 7] for n in range(MOST_ROWS + 5)])
    assert len(table.shown) == MOST_ROWS
    assert table.left_out == 5
    head, *rows = csv.reader(io.StringIO(table.csv))
    assert head == ["name", "value"]
    assert [(name, float(value)) for name, value in rows] == [tuple(row) for row in table.rows]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 30])
def test_every_panel_is_somewhere_and_no_click_shows_a_single_one(count):
    panels = [Panel(str(n), lambda axes: None) for n in range(count)]
    shown, more = split(panels)
    assert [*shown, *more] == panels
    assert len(shown) <= IN_SIGHT + 1
    assert len(more) != 1


def test_files_of_a_chart(tmp_path):
    def draw(axes):
        axes.plot([0, 1], [1, 0], **figures.line(0, markers=True))
        axes.set(xlabel="x, px", ylabel="y <&>")

    panels = [Panel(f"panel {n} <b>", draw) for n in range(5)]
    chart = Chart(
        "name",
        "Title & more",
        "",
        panels[:4],
        Table(["x"], [[1]]),
        panels[4:],
        {0: "run"},
        True,
        Scale("c", -1, 1, True),
    )
    chart.save(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
        "data/name.csv",
        "figures/name.png",
        "figures/name.svg",
    ]
    text = (tmp_path / "figures" / "name.svg").read_text()
    assert "var(" not in text
    texts = [element.text for element in Tree.fromstring(text).iter() if element.tag.endswith("text")]
    assert {"Title & more", "run", "c", *(panel.title for panel in panels)} <= set(texts)
    assert texts.count("y <&>") == 5


def test_a_panel_is_drawn_once():
    calls = []
    panel = Panel("", calls.append)
    chart = Chart("name", "Title", "", [panel], Table([], []))
    assert chart.inline(panel) is chart.inline(panel)
    assert len(calls) == 1


def test_heat_grows_with_the_value_and_changes_colour_with_its_sign():
    plain, signed = Scale("", 0.0, 2.0), Scale("", -1.0, 1.0, centred=True)
    opaque = [plain.colour(value)[3] for value in (0.0, 0.5, 1.0, 2.0, 9.0)]
    assert opaque == sorted(opaque)
    assert opaque[-1] == opaque[-2]
    assert signed.colour(0.5)[3] == signed.colour(-0.5)[3]
    assert signed.colour(0.5)[:3] != signed.colour(-0.5)[:3]
    assert plain.colour(math.nan)[3] == 0


def test_numbers_in_cells_can_be_read_and_have_no_negative_zero():
    with figures.style():
        axes = figures.new(300, 200).subplots()
        heat_map(axes, [[0.0, 1.0], [-0.001, math.nan]], Scale("", 0.0, 1.0), ["a", "b"], ["c", "d"], digits=2)
    texts = {text.get_text(): text.get_color() for text in axes.texts}
    assert texts == {"0.00": COLOURS["ink"].light, "1.00": COLOURS["paper"].light}
