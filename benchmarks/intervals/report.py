"""`python -m intervals.report`: the table of docs/comparing.md, from results/intervals/intervals.json."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from intervals.__main__ import OUTPUT

Cell = Mapping[str, Any]
GROUPS: Sequence[tuple[str, Callable[[Cell], bool]]] = (
    ("2 methods, answers, 50 to 80 %", lambda cell: _answers(cell, 2) and max(cell["worth"]) <= 80),
    ("2 methods, answers, 95 to 100 %", lambda cell: _answers(cell, 2) and max(cell["worth"]) > 80),
    ("2 methods, losses", lambda cell: cell["kind"] == "losses"),
    ("5 methods, answers, 50 to 99 %", lambda cell: _answers(cell, 5)),
    ("11 methods, answers, 50 to 99 %", lambda cell: _answers(cell, 11)),
)


def table(cells: Sequence[Cell]) -> str:
    """Markdown: for each kind of comparison and number of seeds the worst of all settings."""
    lines = [
        "| | seeds | a score's interval holds | a difference's holds | any two told apart | any better than the base |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, belongs in GROUPS:
        for seeds in (1, 2, 3, 5):
            mine = [cell for cell in cells if belongs(cell) and cell["seeds"] == seeds]
            if mine:
                holds = [_range([cell[key] for cell in mine]) for key in ("score", "difference")]
                chance = [_most([cell[key] for cell in mine]) for key in ("apart", "better")]
                lines.append(f"| {' | '.join([name, str(seeds), *holds, *chance])} |")
    return "\n".join(lines)


def _answers(cell: Cell, methods: int) -> bool:
    return cell["kind"] == "answers" and cell["methods"] == methods


def _range(shares: Sequence[float]) -> str:
    low, high = min(shares), max(shares)
    return f"{low:.1f}" if low == high else f"{low:.1f} to {high:.1f}"


def _most(shares: Sequence[float | None]) -> str:
    return f"{max(share for share in shares if share is not None):.1f}"


if __name__ == "__main__":
    print(table(json.loads(OUTPUT.read_text(encoding="utf-8"))))
