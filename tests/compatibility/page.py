"""The page that the matrix is printed as: tables of methods across and behaviours, architectures or bases down.

Outcomes are kept in a file, so that the matrix may be run in parts; the page says what has not been run.
"""

import importlib.metadata
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import compatibility.adapter_behaviours
import compatibility.merging_behaviours
import compatibility.task_behaviours
import compatibility.training_behaviours  # noqa: F401
from compatibility.cases import BEHAVIOURS, FREE, METHODS, Case, cells
from compatibility.models import ARCHITECTURES, Architecture
from compatibility.quantized import CHECKS, KINDS, NOT_RUN

Outcomes = dict[tuple[str, str, str], tuple[str, str]]
"""(behaviour, architecture or quantised base, method) -> ("yes" or "no", the reason)"""

KEPT = Path(__file__).parents[2] / "benchmarks" / "results" / "compatibility.json"
"""The outcomes that the committed page is printed from."""

GROUPS = ("Training", "Tasks", "Generation", "Adapters", "Merging", "What is adapted")
TITLE = "# Compatibility"
INTRODUCTION = """\
What works with what, printed by the project's own tests (`make compatibility`) and not by hand. Every cell is the
outcome of tests on small random models on a CPU, with {versions}.

**yes**: tried, and it holds. **no**: it cannot be, for the reason in the note; the tests see to it that it is refused
with that message or fails, and not silently wrong. **–**: it means nothing there. **(on 3 of 12)**: tried on so many of
the table's architectures; **not run**: on none of them yet."""
METHOD_COLUMNS = """\
Columns are the presets of the papers and combinations of knobs that no paper has: {free}. *mtlora* stands beside
whole blocks (the feed-forward block, or attention where there is no such module), and beside linear layers in
{blockless}."""

COUNTED = """\
How many behaviours hold, of those that mean something there and have been run. Every linear layer is adapted, with two
exceptions: layers that Mamba's mixers read and do not call (mamba, falcon_h1), and experts kept in one fused tensor
(mixtral)."""


class Notes:
    """Numbered footnotes, each text once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, texts: Iterable[str]) -> str:
        numbers = set()
        for text in texts:
            if text not in self.texts:
                self.texts.append(text)
            numbers.add(self.texts.index(text) + 1)
        return f" [{', '.join(map(str, sorted(numbers)))}]" if numbers else ""


def wanted() -> list[tuple[str, str, str]]:
    """All cells of the matrix."""
    keys = [(cell.behaviour.name, cell.case.architecture.name, cell.case.method) for cell in cells()]
    return keys + [(check, kind, method) for check in CHECKS for kind in KINDS for method in METHODS]


def kept(path: Path = KEPT) -> Outcomes:
    """The outcomes of a file, of cells that the matrix still has."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    outcomes = {tuple(cell[:3]): tuple(cell[3:]) for cell in found}
    return {key: outcomes[key] for key in wanted() if key in outcomes}


def keep(outcomes: Outcomes, path: Path = KEPT) -> None:
    """Write the outcomes, one cell in a line."""
    lines = [json.dumps([*key, *outcomes[key]], ensure_ascii=False) for key in wanted() if key in outcomes]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def page(outcomes: Outcomes) -> str:
    """The whole page, in Markdown."""
    notes = Notes()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft"))
    free = "; ".join(f"*{name}* ({_knobs(knobs)})" for name, knobs in FREE.items())
    causal = [a for a in ARCHITECTURES.values() if a.kind == "causal"]
    others = [a for a in ARCHITECTURES.values() if a.kind != "causal"]
    blockless = _names([a for a in ARCHITECTURES.values() if a.block is None])
    parts = [TITLE, INTRODUCTION.format(versions=versions), METHOD_COLUMNS.format(free=free, blockless=blockless)]
    parts += ["## Causal language models", f"All of {_names(causal)}.", _behaviours(outcomes, causal, notes)]
    parts += ["## Other models", f"All of {_names(others)}.", _behaviours(outcomes, others, notes)]
    parts += [
        "## Architectures",
        COUNTED,
        _architectures(outcomes),
    ]
    parts += ["## Quantised bases", _quantized(outcomes, notes)]
    parts += ["## What means nothing where", _pointless()]
    parts += ["## Notes", "\n".join(f"{i}. {text}" for i, text in enumerate(notes.texts, 1))]
    return "\n\n".join(parts) + "\n"


def _behaviours(outcomes: Outcomes, architectures: Sequence[Architecture], notes: Notes) -> str:
    rows = []
    by_group = sorted(BEHAVIOURS.items(), key=lambda item: GROUPS.index(item[1].group))
    for i, (name, behaviour) in enumerate(by_group):
        if i == 0 or behaviour.group != by_group[i - 1][1].group:
            rows.append([f"**{behaviour.group}**", *[""] * len(METHODS)])
        row = [behaviour.text]
        for method in METHODS:
            meant = [a.name for a in architectures if behaviour.pointless(Case(a, method)) is None]
            row.append(_cell(outcomes, [(name, where, method) for where in meant], notes))
        rows.append(row)
    return _table(["behaviour", *METHODS], rows)


def _cell(outcomes: Outcomes, keys: Sequence[tuple[str, str, str]], notes: Notes) -> str:
    """One word for several architectures, and notes for those on which it is another."""
    if not keys:
        return "–"
    found = [(key[1], outcomes[key]) for key in keys if key in outcomes]
    if not found:
        return "not run"
    part = f" (on {len(found)} of {len(keys)})" if len(found) < len(keys) else ""
    reasons: dict[str, list[str]] = {}
    for architecture, (outcome, reason) in found:
        if outcome == "no":
            reasons.setdefault(reason, []).append(architecture)
    refused = sum(map(len, reasons.values()))
    if refused == len(found):
        return "no" + part + notes.mark(reasons)
    return "yes" + part + notes.mark(f"Not on {', '.join(names)}: {reason}" for reason, names in reasons.items())


def _architectures(outcomes: Outcomes) -> str:
    rows = []
    for architecture in ARCHITECTURES:
        row = [architecture]
        for method in METHODS:
            found = [
                outcome
                for (_, where, which), (outcome, _) in outcomes.items()
                if (where, which) == (architecture, method)
            ]
            row.append(f"{found.count('yes')} of {len(found)}")
        rows.append(row)
    return _table(["architecture", *METHODS], rows)


def _pointless() -> str:
    """Why there is a dash, by behaviour: the reason, and where it holds."""
    lines = []
    for behaviour in BEHAVIOURS.values():
        where: dict[str, dict[str, list[str]]] = {}
        for architecture in ARCHITECTURES.values():
            for method in METHODS:
                if (reason := behaviour.pointless(Case(architecture, method))) is not None:
                    where.setdefault(reason, {}).setdefault(architecture.name, []).append(method)
        for reason, architectures in where.items():
            everywhere = len(architectures) == len(ARCHITECTURES)
            listed = next(iter(architectures.values())) if everywhere else architectures
            lines.append(f"- {behaviour.text}: {reason} ({', '.join(listed)})")
    return "\n".join(lines)


def _quantized(outcomes: Outcomes, notes: Notes) -> str:
    rows = []
    for kind in KINDS:
        for check, function in CHECKS.items():
            text = (function.__doc__ or "").strip().splitlines()[0].rstrip(".")
            row = [_cell(outcomes, [(check, kind, method)], notes) for method in METHODS]
            rows.append([kind, text, *row])
    rows += [[kind, f"not run: {why}", *["" for _ in METHODS]] for kind, why in NOT_RUN.items()]
    return _table(["base", "behaviour", *METHODS], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _names(architectures: Sequence[Architecture]) -> str:
    return ", ".join(f"*{a.name}*" for a in architectures)


def _knobs(knobs: dict[str, object]) -> str:
    return ", ".join(f"`{key}={value!r}`" for key, value in knobs.items()) or "the defaults: a plain LoRA"
