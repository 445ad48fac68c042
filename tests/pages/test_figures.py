"""A figure follows the page it stands in, whatever it is labelled with, and is kept as files that stand alone."""

import re
import xml.etree.ElementTree as Tree

import matplotlib
import pytest

from loraweave.pages import figures
from loraweave.pages.palette import COLOURS, SERIES

ODD = "a$b$ <i>&\"'\\alpha 🦙 " + "long " * 10


def drawn(label="loss", colour=None):
    with figures.style():
        figure = figures.new(340, 230)
        axes = figure.subplots()
        axes.plot([0, 1, 2], [3, 2, 1], **figures.line(1, markers=True))
        axes.fill_between([0, 1], [0, 1], color=colour or COLOURS["high"].light, alpha=0.3, linewidth=0)
        axes.set(xlabel="training step", ylabel=label)
    return figure


def test_colours_are_the_pages_variables():
    svg = figures.inline_svg(drawn(), "loss by step")
    assert not re.search(r"#[0-9a-f]{6}\b|rgb\(", svg)
    assert {"var(--series-1)", "var(--high)", "var(--rule)", "var(--quiet)"} <= set(re.findall(r"var\(--[\w-]+\)", svg))


def test_a_colour_that_cannot_follow_the_page_is_refused():
    with pytest.raises(ValueError, match="#123456"):
        figures.inline_svg(drawn(colour="#123456"), "loss by step")


def test_nothing_is_black():
    """matplotlib leaves black out, where a page's default colour would take its place."""
    with pytest.raises(ValueError, match="black"):
        figures.inline_svg(drawn(colour="black"), "loss by step")


def test_text_is_text_and_escaped():
    root = Tree.fromstring(figures.inline_svg(drawn(ODD), f"{ODD} by step"))
    assert ODD in [text.text for text in root.iter("text")]
    assert root.attrib["aria-label"] == f"{ODD} by step"
    assert root.attrib["role"] == "img"
    assert "font-family" not in figures.inline_svg(drawn(), "loss by step")


def test_figures_of_one_page_share_no_ids_and_refer_to_their_own():
    roots = [Tree.fromstring(figures.inline_svg(drawn(), label)) for label in ("one", "another")]
    ids = [[element.attrib["id"] for element in root.iter() if "id" in element.attrib] for root in roots]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    for root, own in zip(roots, ids, strict=True):
        assert len(own) == len(set(own))
        asked = [value for element in root.iter() for value in element.attrib.values() if "#" in value]
        assert {re.search(r"#([\w-]+)", value).group(1) for value in asked} == set(own)


def test_nothing_leaks_into_the_page():
    svg = figures.inline_svg(drawn(), "loss")
    assert "<style" not in svg
    assert "xmlns" not in svg


def test_dashes_and_markers_are_the_palettes():
    svg = figures.inline_svg(drawn(), "loss")
    assert "stroke-dasharray: 7,3" in svg
    assert figures.line(0)["color"] == figures.line(len(SERIES))["color"]
    assert figures.line(3, markers=True)["marker"] == SERIES[3].marker


def test_the_style_leaves_matplotlibs_own_settings_alone():
    before = dict(matplotlib.rcParams)
    drawn()
    assert dict(matplotlib.rcParams) == before


def test_files(tmp_path):
    for suffix in ("svg", "png"):
        figures.save(drawn(), tmp_path / f"loss.{suffix}")
    width, height = (int.from_bytes((tmp_path / "loss.png").read_bytes()[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (680, 460)
    text = (tmp_path / "loss.svg").read_text()
    assert COLOURS["paper"].light in text
    assert "var(" not in text
    Tree.fromstring(text)
    figures.save(drawn(), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text
