"""Below the table on the terminal: the differences to the reference, and the recommendation."""

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from loraweave.comparison import words
from loraweave.comparison.records import BASE, Results

MARKS: dict[str, str] = {"win": "green", "tie": "", "loss": "red"}


def differences_table(results: Results) -> RenderableType:
    """Every method against the reference: the difference of the mean, and on how many tasks it wins, ties and loses."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="", show_edge=False)
    table.add_column(Text(f"against\n{results['reference']}"), no_wrap=True)
    unit = words.mean_unit(results["tasks"])
    for head in (f"mean\n{words.points(unit)}", "wins", "ties", "losses"):
        table.add_column(head, justify="right", no_wrap=True, vertical="bottom")
    for each in results["differences"]:
        verdicts: list[str] = [difference["verdict"] for difference in each["tasks"].values()]
        counts = [str(verdicts.count(verdict)) for verdict in MARKS]
        mean = Text("–")
        if each["mean"] is not None:
            text, interval = words.signed(each["mean"], unit)
            mean = Text(text, style=f"bold {MARKS[each['mean']['verdict']]}" if each["apart"] else "")
            mean.append(f" {interval}", style="not bold dim")
        style = "dim" if each["method"] == BASE else ""
        table.add_row(Text(each["method"], style="bold"), mean, *counts, style=style)
    about = [Padding(Text(said, style="dim"), (0, 0, 0, 1)) for said in words.about_differences(results)]
    return Group(table, "", *about)


def recommendation(results: Results) -> RenderableType:
    """The recommendation: a paragraph, and a line for each point."""
    found = results["recommendation"]
    points = Table.grid(padding=(0, 1, 0, 0))
    for point in found["points"]:
        points.add_row("•", Text(point))
    first, stop, rest = found["text"].partition(". ")
    text = Text(first + stop, style="bold") + Text(rest, style="not bold")
    holds = words.holds_for(results)
    return Group(text, *([Text(holds, style="dim")] if holds else []), *([points] if found["points"] else []))
