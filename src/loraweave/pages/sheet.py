"""Several figures on one sheet of paper, kept as SVG and PNG: what a page shows panel by panel, as one file."""

import io
import re
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from loraweave.files import write_bytes, write_text
from loraweave.pages import figures
from loraweave.pages.palette import COLOURS, variables

_FONTS = "system-ui, 'Segoe UI', Roboto, Helvetica, 'DejaVu Sans', sans-serif"
_DENSITY = 2  # dots of the PNG to a px


class Sheet:
    """A sheet of `width` × `height` px in light colours.

    Args:
        width, height: of the sheet.
        label: what it shows, for those who do not see it.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width, self.height, self.label = round(width), round(height), label
        self._texts: list[tuple[str, float, float, float, bool]] = []
        self._placed: list[tuple[Image.Image, str, float, float]] = []

    def write(self, words: str, x: float, y: float, size: float, bold: bool = False) -> None:
        """A line of text whose upper left corner is at (x, y)."""
        self._texts.append((words, x, y, size, bold))

    def put(self, figure: Figure, svg: Markup, x: float, y: float) -> None:
        """Place a figure with its upper left corner at (x, y).

        Args:
            figure: of its own size.
            svg: the same, as `figures.inline_svg` gives it.
            x, y: in px from the sheet's upper left corner.
        """
        width, height = figure.get_size_inches() * figures.PIXELS_PER_INCH
        opened = f'<svg x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}">'
        self._placed.append((_pixels(figure), re.sub("^<svg [^>]*>", opened, svg, count=1), x, y))

    def save(self, stem: Path) -> None:
        """Write `<stem>.svg` and `<stem>.png`."""
        with figures.style():
            lettering = figures.new(self.width, self.height)
            lettering.set_layout_engine("none")
            for words, left, top, size, bold in self._texts:
                place = left / self.width, 1 - top / self.height
                lettering.text(*place, words, fontsize=size, fontweight="bold" if bold else "normal", va="top")
        image = _pixels(lettering)
        parts = [figures.inline_svg(lettering, "")]
        for pixels, svg, x, y in self._placed:
            image.paste(pixels, (round(x * _DENSITY), round(y * _DENSITY)))
            parts.append(Markup(svg))
        png = io.BytesIO()
        image.convert("RGB").save(png, "PNG")
        write_bytes(stem.with_name(stem.name + ".png"), png.getvalue())
        colours = {name: colour.light for name, colour in variables().items()}
        inner = re.sub(r"var\(--([\w-]+)\)", lambda name: colours[name[1]], "".join(parts))
        extent = f'width="{self.width}" height="{self.height}"'
        write_text(
            stem.with_name(stem.name + ".svg"),
            f'<svg xmlns="http://www.w3.org/2000/svg" {extent} viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.label)}" font-family="{_FONTS}">'
            f'<rect {extent} fill="{COLOURS["paper"].light}"/>{inner}</svg>\n',
        )


def _pixels(figure: Figure) -> Image.Image:
    with figures.style():
        figure.set_dpi(_DENSITY * figures.PIXELS_PER_INCH)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba()))
        figure.set_dpi(figures.PIXELS_PER_INCH)
    return image
