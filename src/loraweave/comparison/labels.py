"""Names beside the points of a figure, such that they lie over neither points nor other names."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from loraweave.pages.palette import COLOURS

SIZE = 10
HEIGHT, PER_LETTER = 12.0, 6.1  # px of a name at that size, on the safe side
DISTANCES = (9.0, 18.0, 30.0, 44.0, 60.0)  # px from the point
DIRECTIONS = 16
POINT, BAR = 6.0, 1.5  # half the width that a point and its error bar are kept clear


class Point(NamedTuple):
    """A point in the units of its axes, its name, and how far its error bar reaches down and up."""

    x: float
    y: float
    name: str
    down: float = 0.0
    up: float = 0.0


class Box(NamedTuple):
    """A rectangle in px."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return wide * high if wide > 0 and high > 0 else 0.0


def label_points(axes: Axes, points: Sequence[Point]) -> None:
    """Write each point's name near it, with a thin line where it had to go further away.

    The limits of the axes must be set; the names are placed one by one, each where it is least in the way.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]
    frame = axes.get_window_extent()
    inside = Box(frame.x0, frame.y0, frame.x1, frame.y1)
    middles = [tuple(axes.transData.transform((point.x, point.y))) for point in points]
    taken = [Box(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in middles]
    bars = []
    for point, (x, _) in zip(points, middles, strict=True):
        low, high = (axes.transData.transform((point.x, point.y + off))[1] for off in (-point.down, point.up))
        bars.append(Box(x - BAR, low, x + BAR, high))
    for index in sorted(range(len(points)), key=lambda each: -middles[each][1]):
        (x, y), name = middles[index], points[index].name
        box, distance = min(_places(x, y, name), key=lambda place: _cost(place[0], place[1], inside, taken, bars))
        taken.append(box)
        middle_x, middle_y = (box.left + box.right) / 2, (box.bottom + box.top) / 2
        axes.annotate(
            name,
            (points[index].x, points[index].y),
            xytext=(middle_x - x, middle_y - y),
            textcoords="offset pixels",
            ha="center",
            va="center",
            fontsize=SIZE,
            color=COLOURS["ink"].light,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": COLOURS["rule-strong"].light, "lw": 0.8, "shrinkA": 0, "shrinkB": 4}
            if distance > DISTANCES[0]
            else None,
        )


def _places(x: float, y: float, name: str) -> list[tuple[Box, float]]:
    """Boxes around a point for its name, with their distance from it."""
    wide = PER_LETTER * len(name)
    found = []
    for distance in DISTANCES:
        for turn in range(DIRECTIONS):
            angle = 2 * math.pi * turn / DIRECTIONS
            across, up = math.cos(angle), math.sin(angle)
            middle_x = x + across * (distance + wide / 2)
            middle_y = y + up * (distance + HEIGHT / 2)
            found.append(
                (Box(middle_x - wide / 2, middle_y - HEIGHT / 2, middle_x + wide / 2, middle_y + HEIGHT / 2), distance)
            )
    return found


def _cost(box: Box, distance: float, inside: Box, taken: Sequence[Box], bars: Sequence[Box]) -> float:
    """How bad a place is: what it covers, what of it lies outside, and how far it is from its point."""
    area = (box.right - box.left) * (box.top - box.bottom)
    covered = 4 * sum(box.overlap(other) for other in taken) + 0.5 * sum(box.overlap(bar) for bar in bars)
    return distance + covered + 20 * (area - box.overlap(inside))
