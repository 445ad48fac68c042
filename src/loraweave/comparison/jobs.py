"""What a comparison has still to do: a function of its results alone, so that it can be asked again whenever one of its
jobs has ended, or after a kill."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from loraweave.comparison.records import BASE, Results, RunRecord, Search, Trial
from loraweave.comparison.search import add_trial, due, parse_rates, rate_name, rates_of, rounds, trials_at
from loraweave.runs.methods import MethodSpec


@dataclass(frozen=True)
class Job:
    """One piece of work that ends in one record.

    Attributes:
        kind: "base": score the untouched base; "trial": train at one rate of a search; "run": train, unless a trial
            has done that, and score.
        method: its name in the comparison.
        spec: the method as it is compared, with its fields.
        seed: of the training; None for the base.
        learning_rate: None where the method has its own and none was searched for.
        steps: of a trial that is shorter than a run; None for whole trainings.
    """

    kind: Literal["base", "trial", "run"]
    method: str
    spec: MethodSpec
    seed: int | None = None
    learning_rate: float | None = None
    steps: int | None = None

    @property
    def name(self) -> str:
        """What it is called where progress is shown."""
        if self.kind == "trial":
            assert self.learning_rate is not None
            short = "" if self.steps is None else f", {self.steps:,} steps"
            return f"{self.method}, learning rate {rate_name(self.learning_rate)}{short}"
        return self.method if self.seed is None else f"{self.method}, seed {self.seed}"


def next_jobs(results: Results, running: Sequence[Job] = ()) -> list[Job]:
    """The jobs that can be started now, the most urgent first: those that wait for no other one and are not `running`.

    A search that is to be widened offers one rate at a time, for the next depends on how that one went; one in rounds
    offers those of one round. A method's runs wait for its whole search.
    """
    due = [*_base(results), *_trials(results), *(job for job in _runs(results) if _is_ready(results, job))]
    return [job for job in due if job not in running]


def expected(results: Results) -> list[Job]:
    """All jobs that can be foreseen: `next_jobs`, and the runs that wait for a search."""
    return [*_base(results), *_trials(results), *_runs(results)]


def begin_searches(results: Results, own_rates: Mapping[str, float], steps: int | None = None) -> None:
    """Give every method with a rate in `own_rates` its entry among the searches, if it has none.

    Args:
        own_rates: the run file's rate of each method, or else the method's own.
        steps: of the longest trials, in rounds that halve the field; None for one round of whole trainings.
    """
    rates = parse_rates(results["settings"]["learning_rates"])
    for method, own in own_rates.items():
        if find_search(results, method) is None:
            seed = results["settings"]["seeds"][0]
            made = Search(method=method, seed=seed, own_rate=own, trials=[], chosen=None, edge=None)
            if steps is not None:
                made["rounds"] = rounds(len(rates_of(rates, own)), steps)
            results["searches"].append(made)
    _confirm_by_runs(results)
    order = [*results["settings"]["methods"]]
    results["searches"].sort(key=lambda search: order.index(search["method"]))


def _confirm_by_runs(results: Results) -> None:
    """A run at the rate that a search in rounds chose is the whole training that confirms it, or does not, whoever made
    it: records of other machines have no folders, and older ones no such trial."""
    for search in results["searches"]:
        rate = search["chosen"]
        if not search.get("rounds") or rate is None or trials_at(search, None):
            continue
        for run in results["runs"]:
            made = (run["method"], run["seed"], run["learning_rate"]) == (search["method"], search["seed"], rate)
            if made and run["adapter"] is not None and run["validation_loss"] is not None:
                whole = Trial(
                    learning_rate=rate,
                    status="finished",
                    error=None,
                    validation_loss=run["validation_loss"],
                    by_task={},
                    seconds=run["seconds"],
                    run=run["adapter"].rpartition("/")[0],
                    steps=None,
                )
                add_trial(search, whole)


def forget_failures(results: Results) -> None:
    """What failed among the methods and seeds asked for is to be tried again.

    Where a search has come to a choice, rates that failed in it stay failed.
    """
    methods, seeds = results["asked"]["methods"], results["asked"]["seeds"]
    results["runs"] = [
        run
        for run in results["runs"]
        if run["status"] == "finished" or run["method"] not in methods or run["seed"] not in seeds
    ]
    for search in results["searches"]:
        if search["method"] in methods and search["chosen"] is None:
            search["trials"] = [trial for trial in search["trials"] if trial["status"] == "finished"]


def hopeless(results: Results) -> Iterator[tuple[Job, str]]:
    """Runs that cannot be made, for no rate of their method's search could be trained; and why."""
    for job in _runs(results):
        search = find_search(results, job.method)
        if search is not None and search["chosen"] is None and search["trials"]:
            first = next(trial for trial in search["trials"] if trial["status"] == "failed")
            rate = rate_name(first["learning_rate"])
            yield job, f"no learning rate could be trained; at {rate}: {first['error'] or ''}"


def put(results: Results, job: Job, record: RunRecord | Trial) -> None:
    """Put what a job came to in its place, which an earlier record may hold that failed or had another rate."""
    if job.kind == "trial":
        search = find_search(results, job.method)
        assert search is not None
        add_trial(search, record)  # type: ignore[arg-type]
        return
    kept = [run for run in results["runs"] if (run["method"], run["seed"]) != (job.method, job.seed)]
    methods, seeds = [BASE, *results["settings"]["methods"]], [None, *results["settings"]["seeds"]]
    results["runs"] = sorted(
        [*kept, record],  # type: ignore[list-item]
        key=lambda run: (seeds.index(run["seed"]), methods.index(run["method"])),
    )


def find_search(results: Results, method: str) -> Search | None:
    """The search for a method's learning rate; None where there is none."""
    return next((search for search in results["searches"] if search["method"] == method), None)


def _base(results: Results) -> list[Job]:
    scored = any(run["method"] == BASE for run in results["runs"])
    return [] if scored else [Job("base", BASE, BASE)]


def _trials(results: Results) -> Iterator[Job]:
    rates = parse_rates(results["settings"]["learning_rates"])
    for search in results["searches"]:
        if search["method"] not in results["asked"]["methods"]:
            continue
        spec = results["settings"]["methods"][search["method"]]
        for rate, steps in due(search, rates_of(rates, search["own_rate"]), results["asked"]["widen"]):
            yield Job("trial", search["method"], spec, search["seed"], rate, steps)


def _searching(results: Results, method: str) -> bool:
    """Whether the search for the method's rate goes on."""
    return any(job.method == method for job in _trials(results))


def _runs(results: Results) -> Iterator[Job]:
    """Runs that are not made, seed by seed; all those of methods whose search goes on. A seed that is not asked for now
    but was run is run anew where the method has another rate since: a mean is of one rate."""
    made = {(run["method"], run["seed"]) for run in results["runs"]}
    for seed in results["settings"]["seeds"]:
        for method in results["asked"]["methods"]:
            if method == BASE or (seed not in results["asked"]["seeds"] and (method, seed) not in made):
                continue
            if _searching(results, method) or not _is_made(results, method, seed):
                search = find_search(results, method)
                rate = None if search is None else search["chosen"]
                yield Job("run", method, results["settings"]["methods"][method], seed, rate)


def _is_ready(results: Results, run: Job) -> bool:
    """Whether the rate of a run is known."""
    return find_search(results, run.method) is None or (
        run.learning_rate is not None and not _searching(results, run.method)
    )


def _is_made(results: Results, method: str, seed: int) -> bool:
    """Whether there is a record of the run, at the rate that was chosen where there was a search."""
    search = find_search(results, method)
    return any(
        (run["method"], run["seed"]) == (method, seed) and (search is None or run["learning_rate"] == search["chosen"])
        for run in results["runs"]
    )
