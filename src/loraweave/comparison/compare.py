"""Train and evaluate every method with every seed on the same data, and record everything."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from loraweave.bases import empty_base, load_base
from loraweave.comparison.folder import ComparisonFolder
from loraweave.comparison.progress import ComparisonProgress, OneRun
from loraweave.comparison.results import BASE, FORMAT, Curves, Results, RunRecord
from loraweave.errors import UserError
from loraweave.evaluation import evaluate, macro_average
from loraweave.evaluation.record import describe, evaluation_settings, record
from loraweave.evaluation.scores import TaskScore
from loraweave.tasks import Task
from loraweave.training.config import MAX_SEED, RunConfig
from loraweave.training.counting import count_trainable, match_rank
from loraweave.training.folder import RunFolder, environment
from loraweave.training.loading import load_run
from loraweave.training.methods import MethodSpec, build_peft_config, resolve_method
from loraweave.training.run import Base, load_run_tasks, read_summary, train
from loraweave.training.settings import DEFAULTS

DEFAULT_OUTPUT = Path("runs") / "comparison"


def compare(
    config: RunConfig,
    methods: Sequence[MethodSpec],
    seeds: Sequence[int],
    *,
    match_params: bool = False,
    output: str | Path | None = None,
    resume: bool = False,
    console: Console | None = None,
    command: str = "",
) -> Results:
    """Compare `methods` on the tasks of a run file; for each seed all of them see the same data in the same order.

    The untouched base is always evaluated too. A run that fails is recorded as failed and the others go on.

    Args:
        config: the run file. Where its own `method` has fields, they hold for that method alone; a learning rate in
            it holds for all, otherwise each method has its own default.
        methods: names, or mappings with a name and fields.
        seeds: whole numbers; a run per method and seed.
        match_params: choose each adapter's rank so that it trains as many parameters as the first one, within 3 %.
        output: folder for results.json, index.html and the runs; by default the run file's, else runs/comparison.
        resume: go on with the comparison in `output`; runs that are finished are not run again.
        console: where progress is shown; stderr by default.
        command: what the user typed, kept with the results.

    Returns:
        The content of results.json.

    Raises:
        UserError: an unknown method, a seed given twice, tasks that cannot be loaded or evaluated, or a folder that
            already holds something; all before anything is trained.
    """
    specs = _specs(config, methods)
    _check_seeds(seeds)
    folder = ComparisonFolder(output_folder(config, output))
    described = load_run_tasks(config)
    if match_params:
        specs = _matched(specs, config.model, [task.name for task in described])
    settings = _settings(config, specs, seeds, match_params)
    results = _open(folder, settings, describe(described), resume, command)
    model, tokenizer = load_base(config.model)
    base = (model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer)
    folder.make()

    planned = [_Planned(spec, name, seed) for seed in seeds for name, spec in specs.items() if name != BASE]
    done = {(run["method"], run["seed"]) for run in results["runs"] if run["status"] == "finished"}
    waiting = [run for run in planned if (run.method, run.seed) not in done]
    names = ([BASE] if (BASE, None) not in done else []) + [run.name for run in waiting]
    with ComparisonProgress(names, console or Console(stderr=True)) as display:
        if BASE in names:
            _add(results, folder, _untouched(config, base, display.run(BASE)))
        for seed in dict.fromkeys(run.seed for run in waiting):
            seeded = config.model_copy(update={"seed": seed})
            tasks = load_run_tasks(seeded)
            # All methods of a seed draw the same mixture: it is shown once.
            printed = display.console
            for run in (run for run in waiting if run.seed == seed):
                one = seeded.model_copy(update={"method": run.spec})
                _add(results, folder, _run(run, one, folder, base, tasks, display.run(run.name), printed, resume))
                printed = Console(file=StringIO())
    return results


def output_folder(config: RunConfig, output: str | Path | None) -> Path:
    """Where a comparison is written: `output`, else where the run file says, else runs/comparison."""
    return Path(output or config.output or DEFAULT_OUTPUT)


@dataclass(frozen=True)
class _Planned:
    """A run to be made."""

    spec: MethodSpec
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}, seed {self.seed}"


def _specs(config: RunConfig, methods: Sequence[MethodSpec]) -> dict[str, MethodSpec]:
    """Every method by its name, all of them known to be possible."""
    own = resolve_method(config.method)[0].name
    specs: dict[str, MethodSpec] = {}
    for given in methods:
        name = resolve_method(given)[0].name
        if name in specs:
            raise UserError(f"the method {name!r} is given twice")
        specs[name] = config.method if given == own else given
        build_peft_config(specs[name], ["task"])
    if not any(name != BASE for name in specs):
        raise UserError("name at least one method to compare with the untouched base")
    return specs


def _check_seeds(seeds: Sequence[int]) -> None:
    if not seeds:
        raise UserError("name at least one seed")
    if len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) > MAX_SEED:
        raise UserError(f"seeds must be different whole numbers from 0 to {MAX_SEED}, got {', '.join(map(str, seeds))}")


def _matched(specs: Mapping[str, MethodSpec], model: str, task_names: Sequence[str]) -> dict[str, MethodSpec]:
    """Every adapter with the rank at which it trains as many parameters as the first."""
    adapters = [name for name, spec in specs.items() if resolve_method(spec)[0].trains == "adapter"]
    if not adapters:
        return dict(specs)
    empty = empty_base(model)
    budget = count_trainable(specs[adapters[0]], empty, task_names)
    return {
        name: match_rank(spec, empty, budget, task_names) if name in adapters[1:] else spec
        for name, spec in specs.items()
    }


def _settings(
    config: RunConfig, specs: Mapping[str, MethodSpec], seeds: Sequence[int], match_params: bool
) -> dict[str, Any]:
    """Everything that decides what the numbers are."""
    values = {key: value for key, value in config.as_dict().items() if key not in ("method", "seed", "output")}
    values["train"] = {**DEFAULTS, **values["train"]}
    return {"config": values, "methods": dict(specs), "seeds": list(seeds), "match_params": match_params}


def _open(
    folder: ComparisonFolder,
    settings: dict[str, Any],
    task_configs: dict[str, dict[str, Any]],
    resume: bool,
    command: str,
) -> Results:
    earlier = folder.open(settings, resume)
    if earlier is not None:
        earlier["settings"] = {
            **settings,
            "methods": earlier["settings"]["methods"] | settings["methods"],
            "seeds": list(dict.fromkeys([*earlier["settings"]["seeds"], *settings["seeds"]])),
        }
        return earlier
    return Results(
        format=FORMAT,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        settings=settings,
        environment=environment(settings["seeds"][0]),
        tasks={},
        task_configs=task_configs,
        runs=[],
        summary=[],
    )


def _add(results: Results, folder: ComparisonFolder, run: RunRecord) -> None:
    """Put a run in its place, which an earlier, failed one may hold; and write what there is."""
    kept = [r for r in results["runs"] if (r["method"], r["seed"]) != (run["method"], run["seed"])]
    methods, seeds = [BASE, *results["settings"]["methods"]], [None, *results["settings"]["seeds"]]
    results["runs"] = sorted([*kept, run], key=lambda r: (seeds.index(r["seed"]), methods.index(r["method"])))
    folder.write(results)


def _untouched(config: RunConfig, base: Base, report: OneRun) -> RunRecord:
    """The base's scores. An error here is one of the tasks or the settings, so it ends the comparison."""
    scores, seconds = _evaluated(config, base[0], base, load_run_tasks(config), report)
    report.finish(_said(scores))
    return _record(BASE, None, scores, seconds)


def _run(
    run: _Planned,
    config: RunConfig,
    comparison: ComparisonFolder,
    base: Base,
    tasks: Sequence[Task],
    report: OneRun,
    printed: Console,
    resume: bool,
) -> RunRecord:
    """Train, load what was saved, evaluate that. What goes wrong is recorded, not raised."""
    folder = RunFolder(comparison.run(run.method, run.seed))
    try:
        if not folder.summary.is_file():
            train(config, folder.path, base=base, tasks=tasks, progress=report, console=printed, resume=resume)
        # Not the model that was just trained: what is scored is what the user can load.
        loaded = load_run(folder.path, base=base, tasks=tasks)
        try:
            scores, seconds = _evaluated(config, loaded.model.to(base[0].device), base, tasks, report)
        finally:
            loaded.release()
        record(folder.path / "results.json", evaluation_settings(config.eval, tasks, config.seed), tasks, scores)
        summary = read_summary(folder.path)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        report.fail(reason)
        return _record(run.method, run.seed, {}, None, error=reason)
    report.finish(_said(scores))
    adapter = str((folder.path / summary["adapter"]).relative_to(comparison.path))
    curves = _curves(folder.metrics, [task.name for task in tasks])
    return _record(run.method, run.seed, scores, seconds, summary=summary, adapter=adapter, curves=curves)


def _evaluated(
    config: RunConfig, model: Any, base: Base, tasks: Sequence[Task], report: OneRun
) -> tuple[dict[str, TaskScore], float]:
    started = time.perf_counter()
    scores = evaluate(
        model,
        base[1],
        tasks,
        limit=config.eval.limit,
        batch_size=config.eval.batch_size,
        num_fewshot=config.eval.num_fewshot,
        seed=config.seed,
        progress=report.evaluated,
    )
    return scores, time.perf_counter() - started


def _record(
    method: str,
    seed: int | None,
    scores: dict[str, TaskScore],
    seconds: float | None,
    *,
    error: str | None = None,
    summary: Mapping[str, Any] | None = None,
    adapter: str | None = None,
    curves: Curves | None = None,
) -> RunRecord:
    """What is known of a run: its scores alone for the base, the error alone for one that failed."""
    trained = summary or {}
    return RunRecord(
        method=method,
        seed=seed,
        status="failed" if error else "finished",
        error=error,
        scores=scores,
        mean=macro_average(scores),
        rank=trained.get("rank"),
        learning_rate=trained.get("learning_rate"),
        trainable_parameters=trained.get("trainable_parameters", 0),
        seconds=trained.get("seconds"),
        evaluation_seconds=seconds,
        tokens_per_second=trained.get("tokens_per_second"),
        peak_memory=trained.get("peak_memory"),
        adapter=adapter,
        curves=curves or Curves(training={}, validation={}),
        mixture=trained.get("mixture", []),
    )


def _said(scores: Mapping[str, TaskScore]) -> str:
    mean = macro_average(scores)
    return "done" if mean is None else f"mean {mean:.2f}"


def _curves(metrics: Path, tasks: Sequence[str]) -> Curves:
    """The losses per task in a run's metrics.jsonl."""
    curves = Curves(training={}, validation={})
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    for task in tasks:
        for prefix, into in (("loss", curves["training"]), ("eval_loss", curves["validation"])):
            key = f"{prefix}/{task}"
            points = [(line["step"], round(line[key], 5)) for line in lines if key in line]
            if points:
                into[task] = points
    return curves
