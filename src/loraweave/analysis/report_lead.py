"""What an analysis found, in a few sentences made from its numbers."""

import math
from collections.abc import Iterable, Sequence

from loraweave.amounts import fixed, listed
from loraweave.analysis.plots import Entry, grouped
from loraweave.analysis.plots_spectra import ALL
from loraweave.analysis.plots_subspaces import overlap_of
from loraweave.analysis.plots_tasks import apart, limit, off_diagonal
from loraweave.pages.lines import mean, number

MOST_RUNS = 4  # named in one sentence


def lead(analysis: Entry) -> list[str]:
    """Sentences, the most telling numbers of every section; empty where there is nothing to say."""
    sentences = (_spectrum(analysis), _overlap(analysis), _heads(analysis), _routing(analysis), _gradients(analysis))
    return [sentence for sentence in sentences if sentence]


def _spectrum(analysis: Entry) -> str:
    """'The update of multilora spreads over 11.2 of 24 directions, that of lora over 3.9 of 8.'"""
    spread = {
        entry["run"]: number(entry["effective_rank"])
        for entry in analysis["spectrum_summary"]
        if entry["module"] == ALL and entry["effective_rank"]
    }
    possible = {
        run: mean(entry["directions"] for entry in entries)
        for run, entries in grouped(analysis["spectra"], lambda entry: entry["run"]).items()
    }
    ranked = sorted(spread, key=lambda run: -spread[run])
    if not ranked:
        return ""
    wide = {run: f"{spread[run]:.1f} of {possible[run]:.0f}" for run in ranked}
    first, *others = _ends(ranked)
    said = [f"The update of {first} spreads over {wide[first]} directions"]
    said += [f"that of {run} over {wide[run]}" for run in others]
    return f"{listed(said)}{_others(ranked)}."


def _overlap(analysis: Entry) -> str:
    """The two runs that are most alike, against chance."""
    found = {}
    for pair, entries in grouped(
        (entry for entry in analysis["subspaces"] if entry["side"] == "left"), lambda entry: tuple(entry["runs"])
    ).items():
        found[pair] = overlap_of(entries)
    there = {pair: values for pair, values in found.items() if not any(map(math.isnan, values))}
    if not there:
        return ""
    (a, b), (overlap, chance) = max(there.items(), key=lambda item: item[1][0] - item[1][1])
    most = "most alike are" if len(there) > 1 else "compared are"
    return f"By the outputs they write to, {most} {a} and {b}: overlap {overlap:.2f}, where chance gives {chance:.2f}."


def _heads(analysis: Entry) -> str:
    """How alike the heads of each run are, and what they learned, which a random start hides."""
    heads = [entry for entry in analysis["heads"] if entry["matrix"] == "B"]
    said = _similarities(heads)
    if not said:
        return ""
    learned = _similarities(
        [{"run": entry["run"], **entry["since_start"]} for entry in heads if entry.get("since_start")]
    )
    text = f"The mean cosine between two heads is {said}"
    return f"{text}; between their changes since the random start it is {learned}." if learned else f"{text}."


def _similarities(heads: Iterable[Entry]) -> str:
    """'0.61 in rlora and 0.02 in multilora'."""
    by_run = grouped(heads, lambda entry: entry["run"])
    alike = {run: mean(entry["mean_similarity"] for entry in entries) for run, entries in by_run.items()}
    ranked = sorted((run for run in alike if not math.isnan(alike[run])), key=lambda run: -alike[run])
    said = [f"{fixed(alike[run], 2)} in {run}" for run in _ends(ranked)]
    return f"{listed(said)}{_others(ranked)}" if said else ""


def _routing(analysis: Entry) -> str:
    """How undecided each run's routing is."""
    entropies = {entry["run"]: mean(entry["entropy"]) for entry in analysis["routing_summary"] if entry["tasks"]}
    ranked = sorted((run for run in entropies if not math.isnan(entropies[run])), key=lambda run: entropies[run])
    said = [f"{100 * entropies[run]:.0f} % in {run}" for run in _ends(ranked)]
    if not said:
        return ""
    return f"The routing's entropy, 100 % where all heads weigh alike, is {listed(said)}{_others(ranked)}."


def _gradients(analysis: Entry) -> str:
    """Whether the tasks agree at the end, and the pair that pulls apart most."""
    last = {entry["run"]: entry for entry in analysis["gradients"] if entry["share"] == 1 and len(entry["tasks"]) > 1}
    means = {run: mean(off_diagonal(entry["cosine"])) for run, entry in last.items()}
    overall = mean(means.values())
    if math.isnan(overall):
        return ""
    tasks, worst, where = min(
        (
            ((entry["tasks"][i], entry["tasks"][j]), number(entry["cosine"][i][j]), run)
            for run, entry in last.items()
            for i in range(len(entry["tasks"]))
            for j in range(i)
            if entry["cosine"][i][j] is not None
        ),
        key=lambda found: found[1],
    )
    clearly = max(map(limit, last.values()))
    words = "agree" if overall > clearly else "pull apart" if overall < -clearly else "neither agree nor pull apart"
    text = f"At the end of training the tasks' gradients on the whole {words} (mean cosine {fixed(overall, 2)}"
    within = mean(value for entry in last.values() for value in entry.get("within", ()))
    text += ")" if math.isnan(within) else f", against {fixed(within, 2)} of a task with itself on other examples)"
    share = mean(apart(entry) for entry in last.values())
    least, most = (f"{each:.2f}" for each in (min(map(limit, last.values())), clearly))
    noise = most if least == most else f"{least} to {most} by run"
    text += f"; {share:.0f} % of the pairs pull apart, by more than their noise (± {noise})"
    if worst < -limit(last[where]):
        text += f"; most apart are {tasks[0]} and {tasks[1]} ({fixed(worst, 2)} in {where})"
    return f"{text}."


def _ends(ranked: Sequence[str]) -> list[str]:
    """All, or the first and the last, where they are many."""
    half = MOST_RUNS // 2
    return list(ranked) if len(ranked) <= MOST_RUNS else [*ranked[:half], *ranked[-half:]]


def _others(ranked: Sequence[str]) -> str:
    return f"; the other {len(ranked) - MOST_RUNS} runs lie between" if len(ranked) > MOST_RUNS else ""
