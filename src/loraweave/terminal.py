"""Consoles that print what they are given as it stands: a name with brackets, colons or escape codes is a name."""

import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.segment import Segment

# A file or a pipe has no width; most tables fit into this one.
WIDTH_OFF_TERMINAL = 120

_CODES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain_console(stderr: bool = False) -> Console:
    """A console that takes no text for markup, emoji or an order to the terminal; style comes with `Text` or `style`.

    Args:
        stderr: write there instead of to stdout.
    """
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made = Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=WIDTH_OFF_TERMINAL)
    made.push_render_hook(_Tame())
    return made


def tame(text: str) -> str:
    """`text` without the characters that a terminal takes for orders; each becomes the sign for an unknown one."""
    return _CODES.sub("\N{REPLACEMENT CHARACTER}", text)


class _Tame(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Tamed(renderable) for renderable in renderables]


class _Tamed:
    """Something to print, its text tamed; the console's own orders (colours, a bar that is redrawn) stay."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments: Iterable[Segment] = console.render(self.inner, options)
        for text, style, control in segments:
            yield Segment(text if control else tame(text), style, control)
