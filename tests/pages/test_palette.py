"""Series can be told apart by everybody, in light and dark."""

import math
from itertools import combinations

import pytest

from loraweave.pages.palette import COLOURS, SERIES, Colour, series, variables

# Machado, Oliveira & Fernandes 2009, table 1, severity 1.0, for linear RGB.
SIGHT = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def linear(colour: str) -> list[float]:
    """sRGB as `#rrggbb` to linear light in [0, 1]."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def oklab(rgb: list[float]) -> tuple[float, float, float]:
    """Ottosson 2020: a space in which equal distances look about equally large; one step of 0.02 can just be seen."""
    red, green, blue = (min(max(c, 0), 1) for c in rgb)
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    medium = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def distance(one: str, other: str, sight: str) -> float:
    def seen(colour):
        return oklab([sum(w * c for w, c in zip(row, linear(colour), strict=True)) for row in SIGHT[sight]])

    return math.dist(seen(one), seen(other))


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2, 1 to 21."""
    bright, dark = sorted(
        (0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05 for r, g, b in map(linear, (one, other))), reverse=True
    )
    return bright / dark


@pytest.mark.parametrize("theme", Colour._fields)
@pytest.mark.parametrize("sight", SIGHT)
def test_series_of_the_same_dashes_differ_in_colour_for_the_colour_blind(theme, sight):
    for one, other in combinations(SERIES, 2):
        if one.dashes == other.dashes:
            assert distance(getattr(one.colour, theme), getattr(other.colour, theme), sight) > 0.075


@pytest.mark.parametrize("theme", Colour._fields)
def test_all_series_differ_and_stand_out_from_the_paper(theme):
    paper = getattr(COLOURS["paper"], theme)
    for one, other in combinations(SERIES, 2):
        assert distance(getattr(one.colour, theme), getattr(other.colour, theme), "normal") > 0.075
    for each in SERIES:
        assert contrast(getattr(each.colour, theme), paper) > 3  # WCAG 2.1, 1.4.11: graphics
    for name in ("ink", "quiet", "accent", "bad"):
        assert contrast(getattr(COLOURS[name], theme), paper) > 4.5  # 1.4.3: text


def test_there_are_twelve_series_with_a_marker_each():
    assert len({each.marker for each in SERIES}) == len(SERIES) == 12


def test_every_light_colour_stands_for_one_variable():
    light = [colour.light for colour in variables().values()]
    assert len(set(light)) == len(light)
    assert light == [colour.lower() for colour in light]


def test_more_series_than_colours_differ_too():
    looks = [series(index) for index in range(4 * len(SERIES))]
    assert looks[: len(SERIES)] == [*SERIES]
    assert len({(each.colour, each.dashes) for each in looks}) == len(looks)
    assert len({(each.colour, each.marker) for each in looks}) == len(looks)
