"""The report of an analysis: one HTML page that needs no network, and every figure and its numbers as files.

report.html            the page, with everything in it
figures/<name>.svg     every figure, for light paper; the same as .png
data/<name>.csv        the numbers that were drawn
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from loraweave import amounts
from loraweave.analysis import plots_heads, plots_routing, plots_spectra, plots_subspaces, plots_tasks, plots_training
from loraweave.analysis.plots import Entry
from loraweave.analysis.report_lead import lead
from loraweave.files import write_text
from loraweave.pages import render
from loraweave.pages.charts import Table

PARTS = (plots_spectra, plots_subspaces, plots_heads, plots_routing, plots_tasks, plots_training)
MOST_NOTES = 6  # in sight; more open on a click


def write(analysis: Entry, folder: Path) -> None:
    """Write the report of `analysis`, the content of analysis.json, into `folder`.

    Raises:
        UserError: the disk is full.
    """
    found = [section for part in PARTS if (section := part.section(analysis))]
    sections = [replace(each, charts=[chart for chart in each.charts if chart.panels]) for each in found]
    for section in sections:
        for chart in section.charts:
            chart.save(folder)
        for listing in section.listings:
            write_text(folder / "data" / f"{listing.name}.csv", listing.table.csv)
    content = {
        "title": _title(analysis),
        "subtitle": f"Base model {', '.join(_bases(analysis))}, {analysis['created'][:10]}",
        "lead": lead(analysis),
        "runs": _runs(analysis),
        "notes": analysis["notes"],
        "most_notes": MOST_NOTES,
        "sections": sections,
        "versions": analysis["versions"],
        "command": analysis["command"],
    }
    write_text(folder / "report.html", render("loraweave.analysis", "report.html", content))


def _title(analysis: Entry) -> str:
    runs = analysis["runs"]
    return f"What {runs[0]['name']} learned" if len(runs) == 1 else f"What {len(runs)} runs learned"


def _bases(analysis: Entry) -> list[str]:
    """The bases' names without the folders they lie in."""
    return list(dict.fromkeys(Path(run["base"]).name if run["base"] else "unknown" for run in analysis["runs"]))


def _runs(analysis: Entry) -> Table:
    rows: list[list[Any]] = [
        [
            run["name"],
            run["method"],
            ", ".join(run["tasks"]) if len(run["tasks"]) <= 3 else f"{len(run['tasks'])} tasks",
            run["rank"],
            run["num_heads"],
            amounts.count(run["trainable_parameters"]),
            None if run["learning_rate"] is None else f"{run['learning_rate']:g}",
            run["seed"],
            run["folder"],
        ]
        for run in analysis["runs"]
    ]
    heads = ["Run", "Method", "Tasks", "Rank", "Heads", "Parameters", "Learning rate", "Seed", "Folder"]
    return Table(heads, rows)
