"""Train and evaluate every method with every seed on the same data, and record everything."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from loraweave.bases import empty_base, load_base
from loraweave.comparison.differences import reference
from loraweave.comparison.display import ComparisonProgress, OneRun
from loraweave.comparison.jobs import base_is_scored, find_search, finished, runs_left, trials_beyond, trials_left
from loraweave.comparison.records import BASE, FORMAT, Recommendation, Results, RunRecord
from loraweave.comparison.runner import Planned, Runner, failed_record
from loraweave.comparison.search import add_trial, check_searchable, parse_rates, rate_name
from loraweave.comparison.store import ComparisonFolder, check_same_methods
from loraweave.errors import UserError
from loraweave.estimate.counting import count_trainable, match_rank
from loraweave.evaluation.record import describe
from loraweave.files import locked
from loraweave.runs.config import MAX_SEED, RunConfig
from loraweave.runs.folder import environment
from loraweave.runs.methods import MethodSpec, choose_method
from loraweave.runs.settings import DEFAULTS
from loraweave.terminal import plain_console

DEFAULT_OUTPUT = Path("runs") / "comparison"


def compare(
    config: RunConfig,
    methods: Sequence[MethodSpec],
    seeds: Sequence[int],
    *,
    learning_rates: Sequence[str] = (),
    widen: bool = False,
    match_params: bool = False,
    against: str | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    console: Console | None = None,
    command: str = "",
) -> Results:
    """Compare `methods` on the tasks of a run file; for each seed all of them see the same data in the same order.

    The untouched base is always evaluated too. A run that fails is recorded as failed and the others go on. With
    `learning_rates` every method is first trained at each of them with the first seed; all its seeds then have the rate
    with the lowest validation loss, and only they are scored on test examples.

    Args:
        config: the run file. Where its own `method` has fields, they hold for that method alone; a learning rate in
            it holds for all, otherwise each method has its own default.
        methods: names, or mappings with a name and fields.
        seeds: whole numbers; a run per method and seed.
        learning_rates: to choose from, such as "1e-3", or "0.5x" for half of each method's own. No search if empty.
        widen: where the best of the rates is the lowest or highest, try the ones beyond it, as far apart as these are.
        match_params: choose each adapter's rank so that it trains as many parameters as the first one, within 3 %.
        against: the method that the others are held against; by default LoRA, else the first adapter.
        output: folder for results.json, index.html and the runs; by default the run file's, else runs/comparison.
        resume: go on with the comparison in `output`; what is finished is not run again. Methods, seeds and learning
            rates may have been added.
        console: where progress is shown; stderr by default.
        command: what the user typed, kept with the results.

    Returns:
        The content of results.json.

    Raises:
        UserError: an unknown method, a seed given twice, a learning rate that is none, tasks that cannot be loaded or
            evaluated, or a folder that already holds something; all before anything is trained.
    """
    specs = _specs(config, methods)
    _check_seeds(seeds)
    parse_rates(learning_rates)
    folder = ComparisonFolder(output_folder(config, output))
    settings = _settings(config, specs, seeds, learning_rates, match_params, against)
    with locked(folder.path, "the comparison's folder"):
        return _compared(
            config, specs, seeds, learning_rates, widen, match_params, folder, settings, resume, console, command
        )


def _compared(
    config: RunConfig,
    specs: dict[str, MethodSpec],
    seeds: Sequence[int],
    learning_rates: Sequence[str],
    widen: bool,
    match_params: bool,
    folder: ComparisonFolder,
    settings: dict[str, Any],
    resume: bool,
    console: Console | None,
    command: str,
) -> Results:
    earlier = folder.open(settings, resume)
    described = config.load_tasks()
    if match_params:
        first = earlier["settings"]["methods"] if earlier is not None else specs
        specs = _matched(specs, first, config.model, [task.name for task in described])
        settings["methods"] = specs
    results = (
        _new(settings, describe(described), command) if earlier is None else _continued(earlier, settings, command)
    )
    reference(results, results["settings"]["against"])
    rates = parse_rates(results["settings"]["learning_rates"])
    if widen and len(rates) < 2:
        raise UserError("a search can be widened from two learning rates on: name them in --learning-rates")
    if rates:
        check_searchable(config)
    model, tokenizer = load_base(config.model, trust_code=config.trust_code)
    base = (model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer)

    console = console or plain_console(stderr=True)
    runner = Runner(config, folder, base, console)
    own_rates = {name: runner.own_rate(spec) for name, spec in specs.items() if name != BASE} if rates else {}
    trials = trials_left(results, specs, rates, own_rates)
    searches = {search["method"]: search for search in results["searches"] if search["method"] in own_rates}
    searched = {trial.method for trial in trials}
    searched |= {method for method, search in searches.items() if widen and search["edge"] is not None}
    runs = runs_left(results, specs, seeds, searched)
    names = [] if base_is_scored(results) else [BASE]
    names += [trial.name for trial in trials] + [run.name for run in runs]
    with ComparisonProgress(names, console) as display:
        if not base_is_scored(results):
            _add(results, runner.untouched(display.run(BASE)))
            folder.write(results, last=False)
        for trial in chain(trials, trials_beyond(searches, specs, rates, own_rates) if widen else ()):
            add_trial(searches[trial.method], runner.trial(trial, display.run(trial.name)))
            folder.write(results, last=False)
        for run in runs:
            _add(results, _made(results, run, runner, display.run(run.name)))
            folder.write(results, last=False)
    folder.write(results)
    return results


def _made(results: Results, run: Planned, runner: Runner, report: OneRun) -> RunRecord:
    """Make one run, at the rate chosen for its method where there was a search."""
    search = find_search(results, run.method)
    if search is None:
        return runner.run(run, report)
    already = finished(results, run)
    if already is not None:  # new rates were tried, and the old one is still the best
        report.finish("as before")
        return already
    if search["chosen"] is None:
        error = f"no learning rate could be trained; at {rate_name(search['trials'][0]['learning_rate'])}: "
        error += search["trials"][0]["error"] or ""
        report.fail(error)
        return failed_record(run, error)
    return runner.run(replace(run, learning_rate=search["chosen"]), report)


def _add(results: Results, run: RunRecord) -> None:
    """Put a run in its place, which an earlier one may hold that failed or had another learning rate."""
    kept = [r for r in results["runs"] if (r["method"], r["seed"]) != (run["method"], run["seed"])]
    methods, seeds = [BASE, *results["settings"]["methods"]], [None, *results["settings"]["seeds"]]
    results["runs"] = sorted([*kept, run], key=lambda r: (seeds.index(r["seed"]), methods.index(r["method"])))


def output_folder(config: RunConfig, output: str | Path | None) -> Path:
    """Where a comparison is written: `output`, else where the run file says, else runs/comparison."""
    return Path(output or config.output or DEFAULT_OUTPUT)


def _specs(config: RunConfig, methods: Sequence[MethodSpec]) -> dict[str, MethodSpec]:
    """Every method by its name, all of them known to be possible."""
    own = choose_method(config.method).name
    specs: dict[str, MethodSpec] = {}
    for given in methods:
        name = choose_method(given).name
        if name in specs:
            raise UserError(f"the method {name!r} is given twice")
        specs[name] = config.method if given == own else given
        choose_method(specs[name]).peft_config(["task"])
    if not any(name != BASE for name in specs):
        raise UserError("name at least one method to compare with the untouched base")
    return specs


def _check_seeds(seeds: Sequence[int]) -> None:
    if not seeds:
        raise UserError("name at least one seed")
    if len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) > MAX_SEED:
        raise UserError(f"seeds must be different whole numbers from 0 to {MAX_SEED}, got {', '.join(map(str, seeds))}")


def _matched(
    specs: Mapping[str, MethodSpec], first: Mapping[str, MethodSpec], model: str, task_names: Sequence[str]
) -> dict[str, MethodSpec]:
    """Every adapter with the rank at which it trains as many parameters as the first adapter in `first`."""
    like = next((spec for spec in first.values() if choose_method(spec).method.trains == "adapter"), None)
    if like is None:
        return dict(specs)
    empty = empty_base(model)
    budget = count_trainable(like, empty, task_names)
    return {
        name: match_rank(spec, empty, budget, task_names)
        if choose_method(spec).method.trains == "adapter" and name != choose_method(like).name
        else spec
        for name, spec in specs.items()
    }


def _settings(
    config: RunConfig,
    specs: Mapping[str, MethodSpec],
    seeds: Sequence[int],
    learning_rates: Sequence[str],
    match_params: bool,
    against: str | None,
) -> dict[str, Any]:
    """Everything that decides what the numbers are."""
    values = {key: value for key, value in config.as_dict().items() if key not in ("method", "seed", "output")}
    values["train"] = {**DEFAULTS, **values["train"]}
    return {
        "config": values,
        "methods": dict(specs),
        "seeds": list(seeds),
        "learning_rates": list(learning_rates),
        "match_params": match_params,
        "against": against,
    }


def _new(settings: dict[str, Any], task_configs: dict[str, dict[str, Any]], command: str) -> Results:
    return Results(
        format=FORMAT,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        settings=settings,
        environment=environment(settings["seeds"][0]),
        tasks={},
        task_configs=task_configs,
        searches=[],
        runs=[],
        summary=[],
        reference="",
        differences=[],
        recommendation=Recommendation(method=None, text="", points=[]),
    )


def _continued(earlier: Results, settings: dict[str, Any], command: str) -> Results:
    """The results so far, with what the new command adds. Learning rates given earlier stay in force."""
    before = earlier["settings"]
    check_same_methods(earlier, settings["methods"])
    earlier["settings"] = {
        **settings,
        "against": settings["against"] or before.get("against"),
        "methods": before["methods"] | settings["methods"],
        **{key: list(dict.fromkeys([*before[key], *settings[key]])) for key in ("seeds", "learning_rates")},
    }
    typed = earlier["command"].split("\n")
    if command.replace(" --resume", "") not in (line.replace(" --resume", "") for line in typed):
        earlier["command"] = "\n".join([*typed, command])
    return earlier
