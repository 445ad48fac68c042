"""Jobs of a comparison, done: train, load what was saved, evaluate that, and put it all in a record."""

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from loraweave.bases import Base
from loraweave.comparison.display import OneRun
from loraweave.comparison.jobs import Job
from loraweave.comparison.recording import run_record
from loraweave.comparison.records import BASE, Curves, RunRecord, Trial
from loraweave.comparison.search import validation_losses
from loraweave.comparison.store import ComparisonFolder
from loraweave.errors import UserError, in_a_line
from loraweave.evaluation import evaluate, macro_average
from loraweave.evaluation.beside import Beside
from loraweave.evaluation.forgetting import evaluate_untrained
from loraweave.evaluation.record import evaluation_settings, record
from loraweave.evaluation.scores import TaskScore
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import RunFolder, read_summary
from loraweave.runs.loading import load_run
from loraweave.runs.methods import choose_method
from loraweave.runs.origin import scored_data
from loraweave.runs.resolve import with_defaults
from loraweave.shapes import read_metrics
from loraweave.tasks import Task
from loraweave.training.run import train

OF_THE_TRAINING = (
    "rank",
    "learning_rate",
    "trainable_parameters",
    "seconds",
    "tokens_per_second",
    "peak_memory",
    "mixture",
)
"""What a run's summary.json says and its record has too."""


class Runner:
    """Makes the runs of a comparison, on one base, which every run gives back untouched.

    Args:
        config: the run file; a run's own method, seed and learning rate go over it.
        seed: the comparison's first. It chooses the solved examples of prompts, so that the base and every run,
            whatever its own seed, are asked the same.
        folder: of the comparison.
        base: model and tokenizer.
        reports: makes what a job of some name reports to.
        console: where the mixture is printed, once for each seed: all methods of a seed draw the same.
        steps: of a whole run, where there are shorter trials; None where there are none.
    """

    def __init__(
        self,
        config: RunConfig,
        seed: int,
        folder: ComparisonFolder,
        base: Base,
        reports: Callable[[str], OneRun],
        console: Console,
        steps: int | None = None,
    ) -> None:
        self.config = config
        self.steps = steps
        self.seed = seed
        self.folder = folder
        self.base = base
        self.reports = reports
        self.console = console
        self._shown: set[int] = set()
        self._tasks: tuple[int, list[Task]] | None = None
        self._untrained: list[Task] | None = None

    def run_job(self, job: Job) -> RunRecord | Trial:
        """Do one job, and say what it came to. What goes wrong with a method is recorded.

        Raises:
            UserError: the base cannot be scored: that is a fault of the tasks or of the settings.
        """
        report = self.reports(job.name)
        if job.kind == "base":
            return self._untouched(report)
        return self._trial(job, report) if job.kind == "trial" else self._run(job, report)

    def _untouched(self, report: OneRun) -> RunRecord:
        scores, lost, seconds = self._evaluated(self.config, self.base[0], self._tasks_of(self.seed), report)
        report.finish(_said(scores))
        return run_record(BASE, None, scores, evaluation_seconds=seconds, **lost)

    def _trial(self, run: Job, report: OneRun) -> Trial:
        """Train at one rate of a search and read the validation loss."""
        assert run.seed is not None
        assert run.learning_rate is not None
        folder = RunFolder(self.folder.run(run.method, run.seed, run.learning_rate, run.steps))
        where = str(folder.path.relative_to(self.folder.path))
        try:
            summary, losses = self._trained(run, folder, report)
            if not losses:
                raise UserError("there is no validation loss of the end of the training to judge the rate by")
        except Exception as error:
            reason = in_a_line(error)
            report.fail(reason)
            return Trial(
                learning_rate=run.learning_rate,
                status="failed",
                error=reason,
                validation_loss=None,
                by_task={},
                seconds=None,
                run=where,
                steps=run.steps,
            )
        loss = sum(losses.values()) / len(losses)
        report.finish(f"validation loss {loss:.3f}")
        return Trial(
            learning_rate=run.learning_rate,
            status="finished",
            error=None,
            validation_loss=loss,
            by_task=losses,
            seconds=summary["seconds"],
            run=where,
            steps=run.steps,
        )

    def _run(self, run: Job, report: OneRun) -> RunRecord:
        """Train, unless a trial has done that, and evaluate."""
        assert run.seed is not None
        folder = RunFolder(self.folder.run(run.method, run.seed, run.learning_rate))
        config, tasks = self._config_of(run), self._tasks_of(run.seed)
        try:
            summary, losses = self._trained(run, folder, report)
            # Not the model that was just trained: what is scored is what the user can load.
            loaded = load_run(folder.path, base=self.base, tasks=tasks, trust_code=config.base.trust_code)
            try:
                model = loaded.model.to(self.base[0].device)
                scores, lost, seconds = self._evaluated(config, model, tasks, report)
            finally:
                loaded.release()
            found = Beside(scores, forgetting=Beside(lost["forgetting"]) if lost else None)
            scored, _ = scored_data(folder, tasks)
            asked = [task for task in tasks if task.is_scored]
            settings = evaluation_settings(config.eval, asked, self.seed)
            record(folder.path / "results.json", settings, asked, found, scored)
        except Exception as error:
            reason = in_a_line(error)
            report.fail(reason)
            return failed_record(run, reason)
        report.finish(_said(scores))
        adapter = str((folder.path / summary["adapter"]).relative_to(self.folder.path))
        curves = _curves(folder.metrics, [task.name for task in tasks])
        return run_record(
            run.method,
            run.seed,
            scores,
            validation_loss=sum(losses.values()) / len(losses) if losses else None,
            evaluation_seconds=seconds,
            adapter=adapter,
            curves=curves,
            **lost,
            **{key: summary[key] for key in OF_THE_TRAINING if key in summary},
        )

    def _trained(self, run: Job, folder: RunFolder, report: OneRun) -> tuple[dict[str, Any], dict[str, float]]:
        """The run's summary and its validation losses; it is trained first where it has not been."""
        assert run.seed is not None
        config = self._config_of(run)
        if folder.summary.is_file():
            if changed := folder.changed(config):
                raise UserError(f"{folder.path} was trained otherwise; remove it to train anew: {'; '.join(changed)}")
        else:
            folder.discard_unbegun()  # a kill may have left it half made
            give_memory_back()
            first = run.seed not in self._shown
            self._shown.add(run.seed)
            train(
                config,
                folder.path,
                base=self.base,
                tasks=self._tasks_of(run.seed),
                progress=report,
                console=self.console if first else Console(file=StringIO()),
                resume=True,
            )
        summary = read_summary(folder.path)
        return summary, validation_losses(folder, config, summary["steps"], summary["best_step"])

    def _config_of(self, run: Job) -> RunConfig:
        searched = {} if run.learning_rate is None else {"learning_rate": run.learning_rate}
        train = {**self.config.train, **searched}
        if run.steps is not None:
            train |= self._shorter(train, run.steps)
        config = self.config.model_copy(update={"method": run.spec, "seed": run.seed, "train": train})
        return with_defaults(config, choose_method(run.spec), self.base[0])

    def _shorter(self, train: Mapping[str, Any], steps: int) -> dict[str, Any]:
        """What makes a training one of so many steps with a schedule of its own, that is looked at once, at its end."""
        shorter = {
            "max_steps": steps,
            "eval_strategy": "steps",
            "eval_steps": steps,
            "save_strategy": "no",
            "load_best_model_at_end": False,
        }
        if train.get("eval_delay"):  # of a whole run: a short one may be over before
            shorter["eval_delay"] = 0
        warmup = train.get("warmup_steps", 0)
        if warmup >= 1 and self.steps is not None:  # the same part of a shorter training
            shorter["warmup_steps"] = min(warmup / self.steps, 0.999)
        return shorter

    def _tasks_of(self, seed: int) -> list[Task]:
        if self._tasks is None or self._tasks[0] != seed:
            self._tasks = seed, self.config.model_copy(update={"seed": seed}).load_tasks()
        return self._tasks[1]

    def _evaluated(
        self, config: RunConfig, model: Any, tasks: Sequence[Task], report: OneRun
    ) -> tuple[dict[str, TaskScore], dict[str, Any], float]:
        """Scores on the tasks that can be scored, those on what nothing was trained for as a field of the record, and
        seconds."""
        started = time.perf_counter()
        how = config.eval.model_dump(exclude={"forgetting"}) | {"seed": self.seed, "progress": report.evaluated}
        scores = evaluate(model, self.base[1], [task for task in tasks if task.is_scored], **how)
        if self._untrained is None:
            self._untrained = self.config.load_forgetting(tasks)
        lost = evaluate_untrained(model, self.base[1], self._untrained, **how)
        return scores, {"forgetting": lost} if lost else {}, time.perf_counter() - started


def give_memory_back() -> None:
    """Free what earlier runs left behind, so that it does not count as the next one's: reference cycles, and memory
    that glibc keeps for later unless told otherwise. On a CPU the peak would grow from run to run."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other systems have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def failed_record(run: Job, reason: str) -> RunRecord:
    """The record of a run that came to nothing."""
    return run_record(run.method, run.seed, {}, error=reason, learning_rate=run.learning_rate)


def _said(scores: Mapping[str, TaskScore]) -> str:
    mean = macro_average(scores)
    return "done" if mean is None else f"mean {mean:.2f}"


def _curves(metrics: Path, tasks: Sequence[str]) -> Curves:
    """The losses per task in a run's metrics.jsonl."""
    curves = Curves(training={}, validation={})
    lines = read_metrics(metrics)
    for task in tasks:
        for prefix, into in (("loss", curves["training"]), ("eval_loss", curves["validation"])):
            key = f"{prefix}/{task}"
            points = [(line["step"], round(line[key], 5)) for line in lines if line.get(key) is not None]
            if points:
                into[task] = points
    return curves
