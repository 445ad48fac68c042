"""The colours of all pages and figures, light and dark, and the dashes and markers that tell series apart without them.

A page gets them as CSS variables (`--ink`, `--series-0`, …). Figures are drawn in the light colours, each of which
stands for one variable, so an SVG inside a page can follow the page.
"""

from typing import NamedTuple


class Colour(NamedTuple):
    """One colour for light and one for dark, as `#rrggbb` in lower case."""

    light: str
    dark: str


class Series(NamedTuple):
    """How one series is drawn: colour, lengths of strokes and gaps in px (none: a solid line), matplotlib's marker."""

    colour: Colour
    dashes: tuple[float, ...]
    marker: str


COLOURS = {
    "paper": Colour("#fdfcfa", "#16181b"),
    "ink": Colour("#1f2328", "#e6e4df"),
    "quiet": Colour("#5d646d", "#9aa0a8"),
    "rule": Colour("#e2dfd9", "#2c3035"),
    "rule-strong": Colour("#b9b4ab", "#50565e"),
    "accent": Colour("#0b6e63", "#5fc9b8"),
    "wash": Colour("#f4f1eb", "#1e2125"),
    "bad": Colour("#a5371f", "#f08a70"),
    # Heat maps lay one of these over the paper, more opaque the larger the value.
    "high": Colour("#0a4a85", "#86c4ff"),
    "low": Colour("#9c3c10", "#ff9f6e"),
}
DASHES: tuple[tuple[float, ...], ...] = (), (7, 3), (2, 3), (8, 3, 2, 3)
SOLID, DASHED, DOTTED, DASH_DOT = DASHES
# Series with the same dashes have colours that stay apart for the colour-blind.
SERIES = (
    Series(Colour("#0072b2", "#58aef0"), SOLID, "o"),
    Series(Colour("#c75300", "#ff924d"), DASHED, "s"),
    Series(Colour("#00805d", "#3fcf9f"), DOTTED, "^"),
    Series(Colour("#a8467b", "#e892c0"), DASH_DOT, "D"),
    Series(Colour("#96690a", "#e3b341"), DOTTED, "v"),
    Series(Colour("#3a8fc4", "#9ad4f7"), DASHED, "P"),
    Series(Colour("#555a60", "#b9bec5"), SOLID, "X"),
    Series(Colour("#7a56c2", "#b49cff"), DASHED, "*"),
    Series(Colour("#8f1f2c", "#ff6f7d"), DASH_DOT, "<"),
    Series(Colour("#5f7a00", "#a9c94f"), DASH_DOT, ">"),
    Series(Colour("#23357a", "#7d8cff"), DOTTED, "h"),
    Series(Colour("#7d4a1e", "#cf9d73"), SOLID, "p"),
)


def series(index: int) -> Series:
    """The look of series `index`; after the last the colours begin again, with other dashes and markers."""
    again, place = divmod(index, len(SERIES))
    look = SERIES[place]
    dashes = DASHES[(DASHES.index(look.dashes) + again) % len(DASHES)]
    return Series(look.colour, dashes, SERIES[(place + again) % len(SERIES)].marker)


def variables() -> dict[str, Colour]:
    """Name of every CSS variable (without the dashes in front) -> its colour."""
    return COLOURS | {f"series-{index}": each.colour for index, each in enumerate(SERIES)}
