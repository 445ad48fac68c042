"""Results as a comparison records them, made up, for tests of what is built from them."""

import random
from collections.abc import Mapping, Sequence

from loraweave.comparison.conclusions import conclude
from loraweave.comparison.recording import new_results, run_record
from loraweave.comparison.records import Asked, Curves, Results, RunRecord, Search, Trial
from loraweave.comparison.search import add_trial
from loraweave.evaluation import TaskScore, macro_average
from loraweave.evaluation.outcomes import shares

PERCENT_TASKS = ("reverse", "sort", "a_task_with_a_long_name")


def results(
    methods: Sequence[str] = ("base", "lora", "rlora"),
    tasks: Sequence[str] = PERCENT_TASKS,
    losses: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    failed: tuple[str, int] | None = None,
) -> Results:
    """`tasks` scored in percent and `losses` by held-out loss, the same numbers at every call."""
    draw = random.Random(0)
    runs = [
        _run(method, seed, tasks, losses, draw, failed == (method, seed))
        for method in methods
        for seed in (seeds if method != "base" else [None])
    ]
    return _results(runs, methods, seeds)


def with_scores(
    scores: Mapping[str, Sequence[Mapping[str, float]] | None], n: int = 200, stderr: float | None = 0.0
) -> Results:
    """Results with these scores: for each method, the seeds 0, 1, … with a score per task, and None for a failed run.

    The base has one entry. By default the test examples are as good as all that there are.
    """
    runs = []
    for method, of_seeds in scores.items():
        for seed, given in enumerate(of_seeds or [None]):
            run = _run(method, seed if method != "base" else None, (), (), random.Random(0), given is None)
            run["scores"] = {
                task: _score(score, "acc", "%") | {"n": n, "stderr": stderr} for task, score in (given or {}).items()
            }
            run["mean"] = macro_average(run["scores"])
            runs.append(run)
    seeds = range(max(len(of_seeds or [None]) for of_seeds in scores.values()))
    return _results(runs, list(scores), list(seeds))


def with_answers(answers: Mapping[str, Sequence[Mapping[str, str]]]) -> Results:
    """Results of these answers: for each method, the seeds 0, 1, … with a "1" or "0" per example of each task."""
    scores = {
        method: [{task: 100 * each.count("1") / len(each) for task, each in given.items()} for given in of_seeds]
        for method, of_seeds in answers.items()
    }
    found = with_scores(scores)
    for run in found["runs"]:
        for task, each in answers[run["method"]][run["seed"] or 0].items():
            share, n = run["scores"][task]["score"], len(each)
            run["scores"][task]["outcomes"] = shares([letter == "1" for letter in each], share, 100.0)
            run["scores"][task] |= {"n": n, "requests": str(n), "stderr": (share * (100 - share) / n) ** 0.5}
    return concluded(found)


def recorded_search(method: str, losses: Mapping[float, float | None]) -> Search:
    """A search with the validation loss of each rate, None for one that failed."""
    made = Search(method=method, seed=0, own_rate=1e-3, trials=[], chosen=None, edge=None)
    for rate, loss in losses.items():
        add_trial(
            made,
            Trial(
                learning_rate=rate,
                status="failed" if loss is None else "finished",
                error="the loss became NaN at step 7" if loss is None else None,
                validation_loss=loss,
                by_task={},
                seconds=60.0,
                run=f"runs/{method}-seed0-lr{rate:g}",
            ),
        )
    return made


def concluded(results: Results) -> Results:
    """The same, with everything that follows from the runs."""
    conclude(results)
    return results


def _results(runs: list[RunRecord], methods: Sequence[str], seeds: Sequence[int]) -> Results:
    settings = {
        "config": {"model": "nano"},
        "methods": {method: method for method in methods},
        "seeds": list(seeds),
        "learning_rates": [],
        "match_params": False,
        "against": None,
        "margin": None,
    }
    return concluded(
        new_results(
            settings,
            Asked(methods=[*methods], seeds=[*seeds], widen=False),
            created="2026-01-02T03:04:05+00:00",
            command="loraweave compare run.yaml --methods 'lora,<rlora>'",
            environment={"packages": {"torch": "2.13.0"}},
            runs=runs,
        )
    )


def _run(method, seed, tasks, losses, draw, failed) -> RunRecord:
    if failed:
        return run_record(method, seed, {}, error="the loss became NaN at step 7", evaluation_seconds=4.0)
    scores = {name: _score(draw.uniform(60, 90), "acc", "%") for name in tasks}
    scores |= {name: _score(draw.uniform(1, 2), "loss", "nats") for name in losses}
    if method == "base":
        return run_record(method, seed, scores, evaluation_seconds=4.0)
    return run_record(
        method,
        seed,
        scores,
        rank=8,
        learning_rate=1e-3,
        validation_loss=0.5,
        trainable_parameters=98_304,
        seconds=draw.uniform(50, 70),
        evaluation_seconds=4.0,
        tokens_per_second=5000.0,
        peak_memory=812_000_000,
        adapter=f"runs/{method}-seed{seed}/adapter",
        curves=Curves(training={name: [(step, 3 / step) for step in range(1, 20)] for name in scores}, validation={}),
        mixture=[{"task": name, "drawn": 800, "passes": 1.0, "wanted": 0.5} for name in tasks],
    )


def _score(value: float, metric: str, unit: str) -> TaskScore:
    return TaskScore(
        score=value,
        stderr=2.5,
        n=200,
        metric=metric,
        unit=unit,
        higher_is_better=metric != "loss",
        filter="none",
        metrics={},
        num_fewshot=0,
        version="1",
        requests="0" * 16,
        truncated=0,
        seconds=1.0,
        outcomes=None,
    )
