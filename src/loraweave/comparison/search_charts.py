"""The search for learning rates as figures: validation loss by rate, a panel for each method."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from loraweave import amounts
from loraweave.comparison.cost_charts import series_of
from loraweave.comparison.records import Results, Search
from loraweave.comparison.search import losses_of, rate_name, rounds_of, trials_at
from loraweave.pages import figures
from loraweave.pages.charts import Chart, Panel, Table
from loraweave.pages.palette import COLOURS

SMALL = 250, 180
LEGIBLE = 10.0
"""A panel reaches this many times as far above the best loss as the runner-up lies."""


def search_chart(results: Results) -> Chart | None:
    """Validation loss by learning rate, a panel for each method; None without a search."""
    series = series_of(results)
    searches = [search for search in results["searches"] if search["method"] in series and search["chosen"] is not None]
    if not searches:
        return None
    drawn = [search for search in searches if len(_by_length(search)[0]) > 1]
    panels = [
        Panel(search["method"], _tried(search, figures.line(series.index(search["method"]), True)), *SMALL)
        for search in drawn  # one point alone is read from the table
    ]
    table = Table(
        ["method", "learning rate", "validation loss", "chosen", "error", "steps"],
        [
            [
                search["method"],
                trial["learning_rate"],
                trial["validation_loss"],
                "yes" if trial["learning_rate"] == search["chosen"] else "no",
                trial["error"] or "",
                trial.get("steps") or "all",
            ]
            for search in searches
            for trial in search["trials"]
        ],
    )
    note = (
        f"Mean over tasks of the loss on validation examples at the end of training with seed {searches[0]['seed']}, "
        "in nats per token."
    )
    if lengths := dict.fromkeys(
        amounts.listed(f"{steps:,}" for steps in each) for search in searches if (each := search.get("rounds"))
    ):
        note += (
            f" These trainings are shorter than the runs, with {' or '.join(lengths)} steps; each round is of the "
            "better half of the one before, and whole trainings confirm the choice."
        )
    if panels:
        note += " Each panel has a scale of its own. A ring marks the rate that was chosen, a cross one that failed."
    if any(max(losses.values()) > _window(search)[1] for search in drawn for losses in _by_length(search) if losses):
        note += " Losses far above the best are off the panels; the data below has them."
    return Chart("search", "Validation loss by learning rate", note, panels, table)


def _by_length(search: Search) -> list[dict[float, float]]:
    """Validation loss by learning rate, of the trials that have one: those of each round, the first of which has all
    the rates, and then of the whole trainings."""
    return [losses_of(trials_at(search, steps)) for steps in dict.fromkeys([*rounds_of(search), None])]


def _window(search: Search) -> tuple[float, float]:
    """The lowest and the highest loss that a method's panel shows: of whole trainings after rounds, the best alone."""
    *shorter, whole = _by_length(search)
    ends = [_range(losses) for losses in shorter or [whole] if losses]
    best = [min(whole.values())] if whole else []
    return min([*best, *(low for low, _ in ends)]), max([*best, *(high for _, high in ends)])


def _range(losses: Mapping[float, float]) -> tuple[float, float]:
    """The losses of one length to show: from the best to those beside it, while the runner-up can still be told."""
    rates = [*losses]
    best, *others = sorted(losses.values())
    if not others:
        return best, best
    runner_up = others[0]
    place = [*losses.values()].index(best)
    beside = max(losses[rate] for rate in rates[max(place - 1, 0) : place + 2])
    return best, max(runner_up, min(beside, best + LEGIBLE * (runner_up - best)))


def _tried(search: Search, look: dict[str, Any]) -> Callable[[Axes], None]:
    """One method's search."""
    by_length = [losses for losses in _by_length(search) if losses]
    low, high = _window(search)
    failed = [trial["learning_rate"] for trial in search["trials"] if trial["validation_loss"] is None]
    rates = sorted({trial["learning_rate"] for trial in search["trials"]})
    best = search["chosen"] or rates[0]
    near = (rates[-1] / rates[0]) ** 0.35  # an end that is nearer to the best than that has no room for its name
    ticks = [best, *(end for end in (rates[0], rates[-1]) if max(end / best, best / end) > near)]

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        for losses in by_length:
            axes.plot([*losses], [*losses.values()], **look)
        last = next(losses for losses in reversed(by_length) if best in losses)
        paper = COLOURS["paper"].light
        axes.plot([best], [last[best]], "o", ms=12, mfc=paper, mec=look["color"], mew=1.2, zorder=1.5)
        top: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "color": COLOURS["bad"].light}
        axes.plot(failed, [0.95] * len(failed), "X", ms=7, mew=0, **top)
        room = 0.12 * (high - low) or 0.1 * low
        axes.set(xlim=(rates[0] / 1.5, rates[-1] * 1.5), ylim=(low - room, high + room))
        axes.set(xlabel="learning rate", ylabel="validation loss")
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: rate_name(rate)))
        axes.yaxis.set_major_locator(MaxNLocator(4))

    return draw
