"""All that is wrong with a run file and with what it names, at once: without weights, and with nothing trained."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraweave.bases import BaseSpec, check_vocabulary, resolve_base
from loraweave.bases.load import OutOfReachError, check_folder
from loraweave.bases.quantization import missing_library
from loraweave.data.encode import TooLongError, encode
from loraweave.data.prepare import longest_example
from loraweave.errors import UserError, check_none, problems_of
from loraweave.estimate.weightless import injected, sized_base, tokenizer_at_hand
from loraweave.quiet import quiet_libraries
from loraweave.runs.config import RunConfig, read_run_file
from loraweave.runs.problems import Places
from loraweave.runs.resolve import ResolvedRun, resolve
from loraweave.tasks import Task
from loraweave.tasks.load import check_names
from loraweave.tasks.outline import Outline, is_missing_data, nothing_downloaded, outlines, untrained_outlines
from loraweave.tasks.recognise import Recognised, recognise
from loraweave.tasks.spec import TaskSpec, parse_spec

Entries = list[tuple[int, TaskSpec]]
"""The entries of `tasks:` that can be read, each with its number among all."""


@dataclass
class Checked:
    """What a check found.

    Attributes:
        problems: what a run would end with, a line each: where it stands, what is wrong, what would be right.
        unknown: what could not be looked at from here, and why.
        notes: what works otherwise than one might think: text that is cut, a folder that is taken.
        data: what each data file was taken for.
    """

    problems: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: list[Recognised] = field(default_factory=list)

    @contextmanager
    def noting(self, place: str = "") -> Iterator[None]:
        """What raises inside it is a problem, or cannot be known here; `place` is put before it where it says none."""
        try:
            yield
        except OutOfReachError as error:
            self.unknown.append(str(error))
        except UserError as error:
            if is_missing_data(error):
                self.unknown.append(str(error))
                return
            self.problems += [
                line if not place or _has_place(line) else f"{place}: {line}" for line in problems_of(error)
            ]


def check(path: str | Path, overrides: Sequence[str] = (), trust_code: bool = False) -> Checked:
    """Find everything that would stop a run, in its run file, its data, its task files and its base.

    Args:
        path: of the run file.
        overrides: settings over it, as of `RunConfig.load`.
        trust_code: run functions that its task files name, and code that comes with its base.

    Raises:
        UserError: there is no such file, or it is no YAML, so that there is nothing to look at.
    """
    found = Checked()
    values, places = read_run_file(path, overrides)
    with found.noting():
        RunConfig.load(path, overrides)
    with quiet_libraries(), nothing_downloaded():
        config, entries = _what_holds(values)
        config.trust_code |= trust_code
        _look_at_data(entries, config, places, found)
        tasks = _tasks(config, entries, places, found)
        _look_at_untrained(config, tasks, places, found)
        base = _base(config.base, places, found) if "model" in values else None
        if base is not None:
            _look_at_run(config, base, tasks, places, found)
    found.problems = list(dict.fromkeys(found.problems))
    return found


def _what_holds(values: Mapping[str, Any]) -> tuple[RunConfig, Entries]:
    """As much of a run file as is right by itself, so that it is looked at too, and the entries of its tasks."""
    right: dict[str, Any] = {"model": "nano", "tasks": ["task"], "base_dir": values["base_dir"]}
    for key, value in values.items():
        with suppress(UserError):
            RunConfig(**{**right, key: value})
            right |= {key: value} if key != "tasks" else {}
    entries: Entries = []
    written = values.get("tasks")
    for number, entry in enumerate(written if isinstance(written, list) else ()):
        with suppress(UserError):
            entries.append((number, parse_spec(entry, "")))
    return RunConfig(**right), entries


def _look_at_data(entries: Entries, config: RunConfig, places: Places, found: Checked) -> None:
    """Every row of every data file; those that are to be skipped are no problem."""
    for number, entry in entries:
        skip = (entry.on_bad_row or config.on_bad_row) == "skip"
        for one in _files(entry):
            with found.noting(places.of(["tasks", number])):
                if (seen := recognise(one, config.base_dir)) is None:
                    continue
                found.data.append(seen)
                problems = seen.problems
                if one is not entry or not seen.kind:  # what else is wrong, or is not at hand, `_tasks` tells
                    problems = [problem for problem in problems if problem.number]
                skipped = [problem.message for problem in problems if skip and problem.number]
                found.notes += [f"left out: {message}" for message in skipped]
                check_none(problem.message for problem in problems if problem.message not in skipped)


def _files(spec: TaskSpec) -> Iterator[TaskSpec]:
    """The entry itself, and those of its other files."""
    yield spec
    for other in (spec.validation, spec.test):
        if isinstance(other, str):
            own = dict.fromkeys(("validation", "test", "subset", "split"))  # of the rows that are learned alone
            yield spec.model_copy(update={"task": other, **own})


def _tasks(config: RunConfig, entries: Entries, places: Places, found: Checked) -> list[Outline] | None:
    """The tasks as a run would load them, where all of them can be, each under a name of its own; without the rows that
    it would end with."""
    loaded: list[Outline] = []
    lacking = False
    for number, entry in entries:
        some: list[Outline] = []
        with found.noting(places.of(["tasks", number])):
            some = outlines([entry], config.how_tasks_load)
        if not some:
            with suppress(UserError):
                all_but_bad = entry.model_copy(update={"on_bad_row": None})
                some = outlines([all_but_bad], config.how_tasks_load._replace(on_bad_row="skip"))
        loaded += some
        lacking |= not some
    if lacking:
        return None
    found.unknown += [f"task {each.name}: its data are not at hand ({each.data})" for each in loaded if not each.task]
    with found.noting(places.of(["tasks"])):
        check_names((outline.name, outline.data) for outline in loaded)
    with found.noting(places.of(["mixture"])):
        config.mixture.check_tasks([outline.name for outline in loaded])
    return loaded if len({outline.name for outline in loaded}) == len(loaded) else None


def _look_at_untrained(config: RunConfig, tasks: list[Outline] | None, places: Places, found: Checked) -> None:
    """What is scored and not trained for, entry by entry."""
    trained = {outline.name: outline.data for outline in tasks or ()}
    for number, entry in enumerate(config.eval.forgetting):
        with found.noting(places.of(["eval", "forgetting", number])):
            for outline in untrained_outlines([entry], trained, config.how_tasks_load):
                if outline.task is None:
                    found.unknown.append(f"eval.forgetting, {outline.name}: its data are not at hand ({outline.data})")


def _base(base: BaseSpec, places: Places, found: Checked) -> PreTrainedModel | None:
    """The base on the meta device; what it lacks is a problem."""
    place = places.of(["model"])
    if base.quantization is not None and (missing := missing_library(base.quantization)) is not None:
        found.problems.append(f"{place}: {missing}")
    with found.noting(place):
        if (folder := Path(resolve_base(base))).is_dir():
            check_folder(folder)
    with found.noting(place):
        return sized_base(base)[0]
    return None


def _look_at_run(
    config: RunConfig, base: PreTrainedModel, tasks: list[Outline] | None, places: Places, found: Checked
) -> None:
    """The method on the base, and the data as its tokens."""
    run = None
    with found.noting(places.of(["train"])):
        run = resolve(config, base)
    if run is None:
        return
    if not run.folder.is_new:
        found.notes.append(
            f"{run.folder.path}: holds something already, so a run would be refused: choose another output, or go on "
            "with that run by --resume"
        )
    with found.noting(places.of(["method"])):
        injected(run, base, [outline.name for outline in tasks or ()] or ["task"])
    with found.noting(places.of(["model"])):
        tokenizer = tokenizer_at_hand(config.base)
        if tokenizer is None:
            found.unknown.append(f"the tokenizer of {config.base.name} is not at hand, so prompts were not rendered")
            return
        check_vocabulary(base, tokenizer, config.base.name)
        loaded = [outline.task for outline in tasks or () if outline.task is not None]
        if tasks and len(loaded) == len(tasks) and run.method.method.trains != "nothing":
            _look_at_tokens(run, base, tokenizer, loaded, places, found)


def _look_at_tokens(
    run: ResolvedRun,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[Task],
    places: Places,
    found: Checked,
) -> None:
    """Every example as the model would read it; then the mixture, and what of it is cut."""
    said = Console(file=StringIO(), width=10**6)
    try:
        run.prepare_data(tasks, base, tokenizer, said)
    except UserError as error:
        longest = longest_example(run.config.train["max_length"], base)
        examples = (
            each for task in tasks for each in (task.training_examples, task.validation_examples, task.test_examples)
        )
        # Without a template it is not the rows that are wrong, and one line says it.
        unfit = [*_unfit(examples, tokenizer, longest)] if tokenizer.chat_template else []
        with found.noting(places.of(["train"])):
            check_none(unfit or problems_of(error))
    assert isinstance(said.file, StringIO)
    found.notes += said.file.getvalue().splitlines()


def _unfit(examples: Iterable[Callable[[], list[Any]]], tokenizer: Any, longest: int) -> Iterator[str]:
    """The examples that the chat template or the tokenizer cannot take."""
    for some in examples:
        for example in some():
            try:
                encode(example, tokenizer, longest)
            except TooLongError:  # left out and counted
                continue
            except UserError as error:
                yield str(error)


def _has_place(line: str) -> bool:
    """Whether a message begins with the file and the line that it is about."""
    start = line.split(": ", 1)[0]
    return start.startswith("--set ") or Path(start.split(", ", 1)[0].rsplit(":", 1)[0]).is_file()
