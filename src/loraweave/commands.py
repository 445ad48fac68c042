"""The commands as functions: what `loraweave eval` and `analyze` do, each with one value back.

`train`, whose value is `RunResult`, stands in `training.run`, `compare`, whose value is `Comparison`, in
`comparison.loop`, and `load_run`, whose value is `Run`, in `runs.loading`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loraweave import analysis, evaluation
from loraweave.comparison.run_page import write_run_page
from loraweave.errors import UserError
from loraweave.evaluation import TaskScore
from loraweave.evaluation.beside import Beside, untouched
from loraweave.evaluation.forgetting import evaluate_untrained
from loraweave.evaluation.record import RESULTS, earlier_evaluations, evaluation_settings, record
from loraweave.evaluation.samples import Sample, write_samples
from loraweave.evaluation.scoring import Progress, not_scored, without_score
from loraweave.evaluation.subject import Subject, load_subject, subject_of
from loraweave.locks import check_new, locked
from loraweave.runs.folder import RunFolder, next_free
from loraweave.runs.loading import Run
from loraweave.runs.origin import scored_data
from loraweave.runs.run_card import write_scores
from loraweave.tasks import Task

WAIT = 60.0
"""Seconds for which another evaluation of the run may be writing what it found."""


@dataclass(frozen=True)
class Evaluation:
    """What a run scored; kept in its folder too.

    Attributes:
        folder: of the run.
        scores: one for each task, in the order asked. `score` is in the task's own `unit`: "%" of right answers (0 to
            100), "nats" of loss per completion token, or none.
        beside: the untouched base's scores on the same examples, the differences paired by example with their
            intervals, the share of the most frequent answer, and the samples.
        notes: what else is to be said.
    """

    folder: Path
    scores: dict[str, TaskScore]
    beside: Beside
    notes: tuple[str, ...] = ()

    @property
    def results(self) -> Path:
        """results.json in the run's folder: this evaluation and those with other settings."""
        return self.folder / RESULTS

    @property
    def samples(self) -> Path:
        """A line for each example of this evaluation: prompt, target, prediction, and the base's prediction."""
        return self.folder / "samples.jsonl"

    @property
    def page(self) -> Path:
        """This evaluation as an HTML page: scores, confusions, right and wrong answers."""
        return self.folder / "evaluation.html"

    @property
    def mean(self) -> float | None:
        """The mean over the tasks in percent; of all tasks where they share one other metric; else None."""
        return evaluation.macro_average(self.scores)

    @property
    def left_out(self) -> list[str]:
        """The tasks that the mean does not count, since they are not in percent."""
        return evaluation.left_out_of_mean(self.scores)


def evaluate(
    run: Run | str | Path,
    *,
    tasks: Sequence[Any] | None = None,
    limit: int | None = None,
    base: bool = True,
    data_dir: str | Path | None = None,
    base_model: str | None = None,
    chat_template: bool = False,
    forgetting: Sequence[str | dict[str, Any]] | None = None,
    trust_code: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> Evaluation:
    """Score a finished run on its tasks and keep the result in its folder, as `loraweave eval` does.

    Beside the run its untouched base answers the same questions. What both said is kept as samples.jsonl, and shown on
    evaluation.html. An adapter or a model by itself is scored on tasks that are named.

    Args:
        run: the folder of a finished run, of an adapter or of a model, or what `load_run` gave.
        tasks: only these of a run's, by name; all that have something to be scored on when None. For what is no run,
            lm-eval names, files or mappings, as in a run file.
        limit: only so many test examples of each task; what the run file says when None.
        base: score the untouched base too.
        forgetting: score these too, which the run was not trained for, as a run file's `eval.forgetting` has them;
            those of the run file when None.
        data_dir: where a run's task and data files are now, by the paths that they had from its run file's folder;
            their training and validation examples must be those of the run. For what is no run, where task YAMLs look
            for their data.
        base_model: name or folder of the base, in the place of the one that the folder names.
        chat_template: for what is no run, send prompts through the tokenizer's chat template, as it was trained.
        trust_code: where `run` is a folder: run functions that its task files name, and code that comes with its base.
        command: what was typed, kept with the page.
        progress: called with the task's name (and "base: " before it), requests done and requests in all.

    Raises:
        UserError: the folder holds nothing finished, or cannot be written to; its data are others; there is no such
            task, or a task cannot be evaluated.
    """
    if isinstance(run, Run):
        if data_dir is not None or base_model is not None or chat_template:
            raise UserError("data_dir, base_model and chat_template are for folders; this run is loaded already")
        subject = subject_of(run, tasks)
    else:
        subject = load_subject(
            Path(run),
            tasks,
            data_dir=data_dir,
            base=base_model,
            chat_template=chat_template,
            trust_code=trust_code,
        )
    with locked(subject.folder, "the run's folder", WAIT):
        earlier_evaluations(subject.folder / RESULTS)  # what cannot be kept need not be found out
    unscored = without_score(subject.tasks) if tasks is None else []
    subject = replace(subject, tasks=[task for task in subject.tasks if task.name not in unscored])
    given = {"limit": limit, "forgetting": None if forgetting is None else [*forgetting]}
    settings = subject.settings.model_copy(update={key: value for key, value in given.items() if value is not None})
    untrained = subject.load_untrained(settings.forgetting)
    how = {**settings.model_dump(exclude={"forgetting"}), "seed": subject.seed}
    samples: dict[str, list[Sample]] = {}
    scores = evaluation.evaluate(
        subject.model, subject.tokenizer, subject.tasks, **how, progress=progress, keep=samples.__setitem__
    )
    lost = evaluate_untrained(subject.model, subject.tokenizer, untrained, **how, progress=progress)
    beside, notes = Beside(scores, samples=samples, forgetting=Beside(lost) if lost else None), tuple[str, ...]()
    if base and subject.trained:
        beside, notes = _with_base(subject, beside, untrained, how, progress)
    notes += tuple(not_scored(unscored))
    scored, changed = scored_data(RunFolder(subject.folder), subject.tasks)
    if changed:
        notes += (f"{', '.join(changed)}: not the examples that were held out when this was trained",)
    found = Evaluation(subject.folder, scores, beside, notes)
    with locked(subject.folder, "the run's folder", WAIT):
        record(found.results, evaluation_settings(settings, subject.tasks, subject.seed), subject.tasks, beside, scored)
        write_samples(found.samples, beside.samples, beside.base_samples)
        write_run_page(found.page, subject, beside, notes, command)
        if settings.limit is None:
            write_scores(subject.card, scores)
    return found


def _with_base(
    subject: Subject,
    beside: Beside,
    untrained: Sequence[Task],
    how: Mapping[str, Any],
    progress: Progress | None,
) -> tuple[Beside, tuple[str, ...]]:
    """What the untouched base says to the same, tasks and what nothing was trained for; where it cannot be had, a note
    says so."""

    def tell(name: str, done: int, of: int) -> None:
        if progress is not None:
            progress(f"base: {name}", done, of)

    samples: dict[str, list[Sample]] = {}
    try:
        with untouched(subject.model, subject.load_untouched) as model:
            scores = evaluation.evaluate(
                model, subject.tokenizer, subject.tasks, **how, progress=tell, keep=samples.__setitem__
            )
            before = evaluate_untrained(model, subject.tokenizer, untrained, **how, progress=tell)
    except UserError as error:
        return beside, (f"the untouched base was not scored: {error}",)
    lost = None if beside.forgetting is None else replace(beside.forgetting, base=before)
    return replace(beside, base=scores, base_samples=samples, forgetting=lost), ()


@dataclass(frozen=True)
class Overview:
    """One run in a row of `Analysis.overview`.

    Attributes:
        run: its name, short.
        method: its name.
        rank: the largest number of singular values that an update of a layer has; None for full fine-tuning.
        effective_rank: the exponential of the entropy of an update's squared singular values, the mean over layers.
        top_share: the share, 0 to 1, of an update's squared norm in its first direction, the mean over layers. All
            three are None where no linear layer has a low-rank update.
        head_similarity: the mean cosine between two heads' B, −1 to 1; None with fewer than two heads.
        learned_similarity: that cosine of what the heads learned since their random start; None where they had none.
    """

    run: str
    method: str
    rank: int | None
    effective_rank: float | None
    top_share: float | None
    head_similarity: float | None
    learned_similarity: float | None


@dataclass(frozen=True)
class Analysis:
    """What training changed; all of it lies in the folder.

    Attributes:
        folder: with analysis.json, report.html and the figures.
        numbers: the content of analysis.json; docs/analysis.md says what each part is.
    """

    folder: Path
    numbers: dict[str, Any]

    @property
    def report(self) -> Path:
        """The HTML page with the figures."""
        return self.folder / "report.html"

    @property
    def notes(self) -> list[str]:
        """What could not be looked at, and why."""
        return self.numbers["notes"]

    @property
    def overview(self) -> list[Overview]:
        """A row for each run."""
        return [_overview(run, self.numbers) for run in self.numbers["runs"]]


def _overview(run: Mapping[str, Any], numbers: Mapping[str, Any]) -> Overview:
    name = run["name"]
    summary = (row for row in numbers["spectrum_summary"] if row["run"] == name and row["module"] == "all")
    whole = next(summary, {"effective_rank": None, "top1": None})
    ranks = [entry["directions"] for entry in numbers["spectra"] if entry["run"] == name]
    heads = [entry for entry in numbers["heads"] if entry["run"] == name and entry["matrix"] == "B"]
    return Overview(
        run=name,
        method=run["method"],
        rank=None if run["kind"] == "full" else max(ranks, default=None),
        effective_rank=whole["effective_rank"],
        top_share=whole["top1"],
        head_similarity=_mean([entry["mean_similarity"] for entry in heads]),
        learned_similarity=_mean([entry["since_start"]["mean_similarity"] for entry in heads if entry["since_start"]]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def analyze(
    runs: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    full: str | Path | None = None,
    sample: int = 0,
    base: str | None = None,
    trust_code: bool = False,
    command: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> Analysis:
    """Analyse what training changed and write a report, as `loraweave analyze` does.

    Args:
        runs: folders of finished runs, of comparisons (all their runs), or of adapters.
        output: the folder to write, new or empty; by default the next free runs/analysis.
        full: a fully fine-tuned model of the same base to compare with: a run, or a checkpoint.
        sample: show token routers so many examples of each task, for typical tokens.
        base: name or folder of the base, in the place of the one that the runs name.
        trust_code: for the sample, run functions that task files name, and code that comes with bases.
        command: what was typed, kept with the numbers.
        progress: told what is being looked at.

    Raises:
        UserError: a folder that holds nothing to analyse or cannot be read, or an output that is not free.
    """
    if isinstance(runs, (str, Path)):
        raise UserError(f"runs: a list of folders, got {str(runs)!r} alone")
    folder = next_free("analysis") if output is None else Path(output)
    check_new(folder)  # before the work, not after it
    numbers = analysis.analyze(
        [Path(run) for run in runs],
        full=None if full is None else Path(full),
        sample=sample,
        base=base,
        trust_code=trust_code,
        command=command,
        progress=progress,
    )
    progress("drawing")
    analysis.save(numbers, folder)
    return Analysis(folder, numbers)
