"""Train and evaluate every method with every seed on the same data, and record everything."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from loraweave.bases import Base, device, load_base
from loraweave.comparison.conclusions import conclude
from loraweave.comparison.differences import reference
from loraweave.comparison.display import ComparisonProgress
from loraweave.comparison.executor import InThisProcess
from loraweave.comparison.jobs import Job, begin_searches, expected, forget_failures, hopeless, next_jobs, put
from loraweave.comparison.opening import (
    check_seeds,
    choose_specs,
    continued,
    default_methods,
    matched,
    output_folder,
    settings_of,
)
from loraweave.comparison.outcome import Comparison
from loraweave.comparison.page import write_page
from loraweave.comparison.recording import new_results
from loraweave.comparison.records import BASE, Asked, Results
from loraweave.comparison.runner import Runner, failed_record
from loraweave.comparison.search import check_searchable, parse_rates, parse_search_steps
from loraweave.comparison.store import ComparisonFolder
from loraweave.data.identity import content_hash
from loraweave.errors import UserError
from loraweave.evaluation.record import describe
from loraweave.evaluation.scoring import not_scored, without_score
from loraweave.locks import locked
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import environment, naming_base
from loraweave.runs.methods import MethodSpec, choose_method
from loraweave.runs.origin import check_base, check_data, describe_base, describe_data
from loraweave.runs.resolve import own_rate, resolve
from loraweave.stopping import GO_ON, listening
from loraweave.terminal import plain_console

PAGE_EVERY = 600.0
"""Seconds between two pages of a comparison that is under way: figures take long to draw."""


def compare(
    config: RunConfig | str | Path,
    methods: Sequence[MethodSpec] | None = None,
    seeds: Sequence[int] | None = None,
    *,
    learning_rates: Sequence[str | float] = (),
    widen: bool = False,
    search_steps: str | int | None = None,
    match_params: bool = False,
    against: str | None = None,
    margin: float | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    console: Console | None = None,
    command: str = "",
) -> Comparison:
    """Train and evaluate several methods on the same data, as `loraweave compare` does.

    For each seed all methods see the same data in the same order. The untouched base is always evaluated too. A run
    that fails is recorded as failed and the others go on. With `learning_rates` every method is first trained at each
    of them with the first seed; all its seeds then have the rate with the lowest validation loss, and only they are
    scored on test examples.

    Args:
        config: a run file, or the path of one. Where its own `method` has fields, they hold for that method alone; a
            learning rate in it holds for all, otherwise each method has its own default.
        methods: names from `loraweave methods`, or mappings with a name and that method's fields; by default `lora`,
            the run file's own and, of several tasks, `own`, one LoRA for each; of what is resumed, those that it has.
        seeds: whole numbers; a run for each method and seed. By default 0; of what is resumed, those that it has.
        learning_rates: to choose from by validation loss, such as 1e-3, or "0.5x" for half of each method's own. No
            search if empty.
        widen: where the best of the rates is the lowest or highest, try the ones beyond it, as far apart as these are.
            As the rates do, it stays in force when the comparison is resumed.
        search_steps: choose learning rates on shorter trainings, in rounds that halve the field and double the steps up
            to these: 100, or "25%" of a run's. By default on whole trainings.
        match_params: choose each adapter's rank so that it trains as many parameters as the first one, within 3 %.
        against: the method that the others are held against; by default LoRA, else the first adapter.
        margin: how much worse than the best a simpler method may be and still be taken, in points (or, for losses, in
            nats per token); by default 1 point, or 0.02.
        output: the folder to write; by default the run file's, else runs/comparison.
        resume: go on with the comparison in `output`; what is finished is not run again. Methods, seeds and learning
            rates may have been added.
        console: where progress is shown; stderr by default.
        command: what was typed, kept with the results.

    Raises:
        UserError: several processes of a launcher, an unknown method, a seed given twice, a learning rate that is none,
            tasks that cannot be loaded or evaluated, or a folder that already holds something; all before anything is
            trained.
    """
    if (processes := int(os.environ.get("WORLD_SIZE") or 1)) > 1:
        raise UserError(
            f"compare runs in one process, and a launcher has started {processes}: start it without accelerate launch "
            "or torchrun, or train one method at a time with `loraweave train` under the launcher"
        )
    config = RunConfig.of(config)
    folder = ComparisonFolder(output_folder(config, output))
    if methods is None:
        methods = (folder.methods() if resume else None) or default_methods(config)
    specs = choose_specs(config, methods)
    if seeds is None:
        seeds = (folder.seeds() if resume else None) or [0]
    check_seeds(seeds)
    rates = [str(rate) for rate in learning_rates]
    parse_rates(rates)
    if search_steps is not None:
        parse_search_steps(search_steps)
    settings = settings_of(config, specs, seeds, rates, match_params, against, margin, search_steps)
    asked = Asked(methods=[*specs], seeds=[*seeds], widen=widen)
    stops = listening(f"{folder.path}: stopped, and what is finished is kept; {GO_ON}")
    with stops, locked(folder.path, "the comparison's folder"), naming_base(folder.path, option="--set model=NAME"):
        results = _opened(config, folder, settings, asked, resume, command)
        _complete(config, results, folder, console or plain_console(stderr=True))
    return Comparison(folder.path, results)


def _opened(
    config: RunConfig, folder: ComparisonFolder, settings: dict[str, Any], asked: Asked, resume: bool, command: str
) -> Results:
    """The results to begin with or go on from, once everything has been checked that can be without a model."""
    earlier = folder.open(settings, resume)
    first_seed = (earlier["settings"] if earlier is not None else settings)["seeds"][0]
    described = config.model_copy(update={"seed": first_seed}).load_tasks()
    unscored = without_score(described)
    untrained = config.load_forgetting(described)
    data = describe_data(described) | {thing.name: {"test": content_hash(thing.test_examples())} for thing in untrained}
    if earlier is not None:
        check_data(folder.path, earlier["data"], data)
        asked["widen"] = asked["widen"] or earlier["asked"]["widen"]  # as rates that were given earlier stay in force
    specs, names = settings["methods"], [task.name for task in described]
    for spec in specs.values():  # one head for each task, say, and not as many tasks
        choose_method(spec).peft_config(names)
    if settings["match_params"]:
        first = earlier["settings"]["methods"] if earlier is not None else specs
        settings["methods"] = matched(specs, first, config.base, names)
    if earlier is None:
        results = new_results(
            settings,
            asked,
            command=command,
            environment=environment(first_seed),
            task_configs=describe([*described, *untrained]),
        )
    else:
        results = continued(earlier, settings, asked, command)
    results["data"], results["unscored"] = data, unscored
    reference(results, results["settings"]["against"])
    rates = parse_rates(results["settings"]["learning_rates"])
    if asked["widen"] and len(rates) < 2:
        raise UserError("a search can be widened from two learning rates on: name them in --learning-rates")
    if rates:
        check_searchable(config)
    elif results["settings"]["search_steps"] is not None:
        raise UserError("search steps are of a search for learning rates: name some in --learning-rates")
    return results


def _complete(config: RunConfig, results: Results, folder: ComparisonFolder, console: Console) -> None:
    """Do all that is asked for and not done, and write down what follows from it."""
    for note in not_scored(results["unscored"]):
        console.print(note, markup=False, soft_wrap=True)
    model, tokenizer = load_base(config.base)
    now = describe_base(config.base, model, tokenizer)
    if results["base"]:
        check_base(folder.path, results["base"], now)
    results["base"] = now
    base = (model.to(device()), tokenizer)
    forget_failures(results)
    steps, wanted = None, results["settings"]["search_steps"]
    if results["settings"]["learning_rates"]:
        specs = {name: results["settings"]["methods"][name] for name in results["asked"]["methods"] if name != BASE}
        if wanted is not None:
            steps = _steps_of_a_run(config, results["settings"]["seeds"][0], (model, tokenizer))
        own = {name: own_rate(config, choose_method(spec), model) for name, spec in specs.items()}
        begin_searches(results, own, None if steps is None else parse_search_steps(wanted, steps))
    with ComparisonProgress([job.name for job in expected(results)], console) as display:
        runner = Runner(config, results["settings"]["seeds"][0], folder, base, display.run, console, steps)
        try:
            _work(results, runner, folder, InThisProcess())
        except BaseException:  # stopped by hand, too
            _draw_if_possible(results, folder)
            raise
        for job, reason in list(hopeless(results)):
            put(results, job, failed_record(job, reason))
            display.run(job.name).fail(reason)
        for name in [*display.waiting]:  # new rates were tried, and the old one is still the best
            display.run(name).finish("as before")
    conclude(results)
    folder.write(results)
    write_page(results, folder.page)


def _steps_of_a_run(config: RunConfig, seed: int, base: Base) -> int:
    """Optimizer steps of a whole run; all methods of a seed have the same rows, and so as many."""
    run = resolve(config.model_copy(update={"seed": seed}), base[0])
    if run.args.max_steps > 0:
        return int(run.args.max_steps)
    _, plan, _ = run.prepare_data(run.config.load_tasks(), *base, Console(quiet=True))
    return run.schedule.steps(len(plan))


def _work(results: Results, runner: Runner, folder: ComparisonFolder, executor: Executor, at_once: int = 1) -> None:
    """Have every job done, and write down what each came to: this is the only writer.

    Args:
        results: so far; they grow.
        runner: does a job.
        folder: of the comparison.
        executor: where jobs are done.
        at_once: how many at a time.
    """
    running: dict[Future, Job] = {}
    drawn = time.monotonic()
    while True:
        for job in next_jobs(results, [*running.values()])[: at_once - len(running)]:
            running[executor.submit(runner.run_job, job)] = job
        if not running:
            return
        for ended in wait(running, return_when=FIRST_COMPLETED).done:
            put(results, running.pop(ended), ended.result())
        conclude(results)
        folder.write(results)
        if time.monotonic() - drawn > PAGE_EVERY:
            _draw_if_possible(results, folder)
            drawn = time.monotonic()


def _draw_if_possible(results: Results, folder: ComparisonFolder) -> None:
    """The page of a comparison that is not over; one that cannot be made must not end the runs to come."""
    if results["runs"]:
        with suppress(Exception):
            write_page(results, folder.page)
