"""What a comparison has still to do, given what its results already hold."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from loraweave.comparison.records import BASE, Results, RunRecord, Search
from loraweave.comparison.runner import Planned
from loraweave.comparison.search import Rate, beyond, rates_of
from loraweave.runs.methods import MethodSpec


def base_is_scored(results: Results) -> bool:
    """Whether the untouched base has its scores."""
    return any(run["method"] == BASE for run in results["runs"])


def trials_left(
    results: Results, specs: Mapping[str, MethodSpec], rates: Sequence[Rate], own_rates: Mapping[str, float]
) -> list[Planned]:
    """The trials of the learning-rate searches that have not been made, all with the comparison's first seed.

    Where a search has come to a choice, rates that failed in it stay failed; where it has not, they are tried again.
    Every method gets its entry in `results["searches"]`.
    """
    left = []
    order = [*results["settings"]["methods"]]
    for method, own in own_rates.items():
        if find_search(results, method) is None:
            seed = results["settings"]["seeds"][0]
            made = Search(method=method, seed=seed, own_rate=own, trials=[], chosen=None, edge=None)
            results["searches"].append(made)
    results["searches"].sort(key=lambda search: order.index(search["method"]))
    for search in results["searches"]:
        if search["method"] not in own_rates:
            continue
        settled = {
            trial["learning_rate"]
            for trial in search["trials"]
            if trial["status"] == "finished" or search["chosen"] is not None
        }
        left += [
            Planned(specs[search["method"]], search["method"], search["seed"], rate)
            for rate in rates_of(rates, own_rates[search["method"]])
            if rate not in settled
        ]
    return left


def trials_beyond(
    searches: Mapping[str, Search],
    specs: Mapping[str, MethodSpec],
    rates: Sequence[Rate],
    own_rates: Mapping[str, float],
) -> Iterator[Planned]:
    """The trials that widen `searches`, by method; each must be in its search before the next is asked for."""
    for method, search in searches.items():
        given = rates_of(rates, own_rates[method])
        while (rate := beyond(search, given)) is not None:
            yield Planned(specs[method], method, search["seed"], rate)


def runs_left(
    results: Results, specs: Mapping[str, MethodSpec], seeds: Sequence[int], searched: Collection[str]
) -> list[Planned]:
    """The runs that are not finished, seed by seed; all those of `searched` methods, whose rate is not known yet."""
    planned = [Planned(spec, name, seed) for seed in seeds for name, spec in specs.items() if name != BASE]
    return [run for run in planned if run.method in searched or finished(results, run) is None]


def finished(results: Results, run: Planned) -> RunRecord | None:
    """The record of a finished run at the rate that was chosen for its method, or its own where none was."""
    search = find_search(results, run.method)
    for record in results["runs"]:
        if (record["method"], record["seed"], record["status"]) == (run.method, run.seed, "finished") and (
            search is None or record["learning_rate"] == search["chosen"]
        ):
            return record
    return None


def find_search(results: Results, method: str) -> Search | None:
    """The search for a method's learning rate; None where there is none."""
    return next((search for search in results["searches"] if search["method"] == method), None)
