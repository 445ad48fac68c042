"""Train the experts of a run file and add each to a library, alone in any order or several in one run.

Every expert is trained in a run of its own below the library, `runs/NAME`; together, in `runs/together-…`. A run that
was interrupted goes on; one that has ended and was not added yet is added.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedModel
from trl import SFTConfig

from loraweave.adapters.config import beyond_plain
from loraweave.adapters.file import AdapterFile
from loraweave.adapters.plain import PREFIX
from loraweave.adapters.write import fill
from loraweave.bases import Base, fingerprint, load_base
from loraweave.data.schedule import Schedule
from loraweave.errors import UserError, nearest
from loraweave.evaluation import TaskScore, evaluate
from loraweave.evaluation.forgetting import evaluate_untrained
from loraweave.experts.config import ExpertsConfig, ExpertSettings
from loraweave.experts.library import ExpertLibrary
from loraweave.experts.manifest import Expert
from loraweave.experts.routing import instruction_of
from loraweave.experts.together import FIELDS, Together
from loraweave.files import make_folder, written_whole
from loraweave.paths import folder_names
from loraweave.quiet import quiet_libraries
from loraweave.runs.adapting import adapted, take_off, unchanged
from loraweave.runs.attaching import attach
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import RunFolder
from loraweave.runs.methods import choose_method
from loraweave.runs.origin import describe_base, describe_data, hold_to
from loraweave.runs.resolve import resolve
from loraweave.tasks import Task
from loraweave.terminal import plain_console
from loraweave.training.progress import RunProgress
from loraweave.training.run import train

RUNS = "runs"
EXAMPLES, LONGEST = 5, 500
"""Of a task's training prompts, how many are kept as examples of what it is asked, and characters of each."""


BY_NUMBERS = frozenset(
    "adamw_torch adamw_torch_fused adamw_torch_xla adamw_torch_npu_fused adamw_anyprecision paged_adamw_32bit sgd "
    "adagrad rmsprop lion_32bit paged_lion_32bit".split()
)
"""Optimizers whose steps go number by number: experts in one tensor do not change each other's."""


@dataclass(frozen=True)
class _Wanted:
    """One expert to train: its task, and the run file of its run alone."""

    task: Task
    config: RunConfig
    said: ExpertSettings


def train_experts(
    config: ExpertsConfig | str | Path,
    library: str | Path,
    *,
    only: Sequence[str] | None = None,
    together: bool = False,
    resume: bool = False,
    replace: bool = False,
    base: Base | None = None,
    progress: RunProgress | None = None,
    console: Console | None = None,
) -> dict[str, Expert]:
    """Train an expert for each task of a run file, and add it to a library.

    Args:
        config: the run file, or its path: as for `train`, with a section `experts` for what is others in single tasks.
        library: its folder; made if it is not there.
        only: names of the tasks that are meant; all when None.
        together: experts whose settings are the same share a run, in mixed batches.
        resume: go on: experts that are there are passed over, runs that have ended are added, others continue.
        replace: take the places of experts of the same names, once each is trained.
        base: model and tokenizer, if already loaded; given back untouched.
        progress: shows how each run goes; nothing is shown when None.
        console: where mixtures and warnings are printed; stderr when None.

    Returns:
        The experts that were added, by name.

    Raises:
        UserError: a method that trains no plain LoRA, a name that is taken, another base than the library's; all
            before anything is trained. Or whatever `train` raises; experts that were added before that stay.
    """
    config = ExpertsConfig.of(config)
    console = console or plain_console(stderr=True)
    wanted = _wanted(config, only)
    with quiet_libraries():
        base = base or load_base(config.base)
        _check_plain(wanted, base)
    there = ExpertLibrary.create(library, config.base, fingerprint(base[0]))
    taken = [name for name in wanted if name in there.experts()]
    if taken and not (resume or replace):
        raise UserError(
            f"{library}: has an expert {taken[0]!r} already: go on with --resume, or take its place with --replace"
        )
    passed = () if replace else taken
    added: dict[str, Expert] = {}
    for group in _groups(wanted, base, there.folder) if together else [{n: w} for n, w in wanted.items()]:
        left = {name: each for name, each in group.items() if name not in passed}
        if len(left) < len(group) and not (left and RunFolder(_folder_together(there, group)).config.is_file()):
            group = left  # no run of all was begun, so those that are there have nothing to do with it
        if not group:
            continue
        if together:
            said = f"together  {', '.join(group)}" if len(group) > 1 else f"alone     {next(iter(group))}"
            console.print(said, markup=False, soft_wrap=True)
        how: dict[str, Any] = {"base": base, "progress": progress, "console": console}
        trained = (
            _trained_together(group, there, resume, how) if len(group) > 1 else _trained(group, there, resume, how)
        )
        for name, each in left.items():
            folder = trained[name]
            added[name] = there.add(
                folder,
                name,
                description=each.said.description,
                instructions=each.said.instructions or examples_of(each.task),
                prefixes=each.said.prefixes,
                scores=_scores(base, folder, each, console),
                plain=not each.task.chat_template,
                base=config.base.name,
                replace=replace,
            )
            console.print(f"expert    {name}  {added[name].folder}", markup=False, soft_wrap=True)
    return added


def _scores(base: Base, folder: Path, wanted: _Wanted, console: Console) -> dict[str, TaskScore]:
    """What an expert scores on the test examples of its task, and on what it was not trained for, as its run file's
    `eval` says; what cannot be scored is said, and is left out."""
    config, run = wanted.config, RunFolder(folder)
    how = {**config.eval.model_dump(exclude={"forgetting"}), "seed": config.seed}
    console.print(f"scoring   {wanted.task.name}", markup=False, soft_wrap=True)
    with unchanged(base[0]):
        with quiet_libraries():
            model = attach(base[0], run.adapter if run.adapter.is_dir() else folder)
        scores: dict[str, TaskScore] = {}
        try:
            for score, load in (
                (evaluate, lambda: [wanted.task]),
                (evaluate_untrained, lambda: config.load_forgetting([wanted.task])),
            ):
                try:
                    scores |= score(model, base[1], load(), **how)
                except UserError as error:  # what was trained is worth keeping without
                    console.print(f"no score  {wanted.task.name}: {error}", markup=False, soft_wrap=True)
            return scores
        finally:
            take_off(model)


def _wanted(config: ExpertsConfig, only: Sequence[str] | None) -> dict[str, _Wanted]:
    tasks = config.tasks_apart()
    for name in only or ():
        if name not in tasks:
            raise UserError(f"no task {name!r}{nearest(name, tasks)} (the run file has {', '.join(tasks)})")
    return {
        name: _Wanted(task, config.alone(name, entry), config.experts.get(name, ExpertSettings()))
        for name, (entry, task) in tasks.items()
        if only is None or name in only
    }


def _check_plain(wanted: Mapping[str, _Wanted], base: Base) -> None:
    """Raise UserError where a method is no plain LoRA on this base: PEFT adapts experts that are fused as weights."""
    configs = {json.dumps(each.config.method, sort_keys=True, default=str): each.config for each in wanted.values()}
    for config in configs.values():
        with adapted(base[0], choose_method(config.method), ["task"], 0, keep_base=True) as model:
            odd = beyond_plain(model.active_peft_config)
        if odd is not None:
            raise UserError(
                f"method: on this base it comes to {odd}, which is no plain LoRA, as those of a library are: name "
                "layers alone as target_modules"
            )


def _trained(group: dict[str, _Wanted], library: ExpertLibrary, resume: bool, how: dict[str, Any]) -> dict[str, Path]:
    """An expert's run alone, made, gone on with, or found to have ended."""
    ((name, wanted),) = group.items()
    folder = _run_folder(library, name, resume)
    if not _has_ended(folder, wanted.config, [wanted.task], how["base"]):
        train(wanted.config, folder, tasks=[wanted.task], resume=resume, **how)
    return {name: folder}


def _has_ended(folder: Path, config: RunConfig, tasks: Sequence[Task], base: Base) -> bool:
    """Whether the run that a run file asks for is there whole; UserError where one that has ended is another run."""
    run = resolve(config, base[0], folder)
    if not run.folder.summary.is_file():
        return False
    if changed := run.folder.changed(run.config):
        raise UserError(
            f"{folder}: cannot resume, the run that has ended here is another one: {'; '.join(changed)}; put that "
            "back, or train it anew without --resume"
        )
    hold_to(run.folder, describe_base(run.config.base, *base), describe_data(tasks))
    return True


def _trained_together(
    group: dict[str, _Wanted], library: ExpertLibrary, resume: bool, how: dict[str, Any]
) -> dict[str, Path]:
    """The run of several, taken apart into a LoRA for each."""
    first = next(iter(group.values())).config
    (model, tokenizer), console = how["base"], how["console"]
    folder = _run_folder(library, _folder_together(library, group).name, resume)
    run = resolve(first, model, folder)
    alone = {}
    with quiet_libraries():
        for name, each in group.items():
            alone[name] = resolve(each.config, model, folder).prepare_data([each.task], model, tokenizer, console)
    schedule, rows = Schedule.of(run.args), len(next(iter(alone.values()))[1])
    accumulation = run.args.gradient_accumulation_steps
    batch, steps = schedule.rows_per_step // accumulation, schedule.steps(rows)
    recipe = Together(alone, choose_method(first.method), batch, accumulation, steps)
    tasks = [each.task for each in group.values()]
    epochs = steps / math.ceil(rows / schedule.rows_per_step)
    config = _config_together(run.config, list(group.values()), batch, steps, epochs)
    if not _has_ended(folder, config, tasks, how["base"]):
        train(config, folder, tasks=tasks, resume=resume, recipe=recipe, **how)
    else:
        recipe.begin_alone((model, tokenizer), tasks[0].name, first.seed)
    return _apart(folder, list(group), recipe)


def _folder_together(library: ExpertLibrary, group: Iterable[str]) -> Path:
    digest = hashlib.sha256(json.dumps(sorted(group)).encode()).hexdigest()[:8]
    return library.folder / RUNS / f"together-{digest}"


def _config_together(alone: RunConfig, group: Sequence[_Wanted], batch: int, steps: int, epochs: float) -> RunConfig:
    """The run file of several: every setting of one alone, with the rows of all in a batch and its number of steps."""
    method = {"name": alone.method} if isinstance(alone.method, str) else dict(alone.method)
    chosen = choose_method(method)
    fields = {**chosen.method.defaults, **{k: v for k, v in chosen.given.items() if k in FIELDS}, "name": "own"}
    values = {key: getattr(alone, key) for key in RunConfig.model_fields}
    training = {**alone.train, "per_device_train_batch_size": len(group) * batch, "max_steps": steps}
    for kind in ("eval", "save"):  # there is one epoch
        if training.get(f"{kind}_strategy") == "epoch" and epochs > 1:
            training |= {f"{kind}_strategy": "steps", f"{kind}_steps": max(1, round(steps / epochs))}
    entries = [entry for each in group for entry in each.config.tasks]
    values |= {"method": fields, "tasks": entries, "train": training, "mixture": {}, "eval": alone.eval.model_dump()}
    return RunConfig(**values)


def _apart(folder: Path, names: list[str], recipe: Together) -> dict[str, Path]:
    """The LoRA of each expert, as it would have been saved had it been trained alone."""
    adapter = AdapterFile(RunFolder(folder).adapter)
    assert recipe.config is not None
    target = folder / "experts"
    with written_whole(target) as unfinished:
        for number, into in enumerate(folder_names(names)):
            make_folder(unfinished / into)
            tensors = {}
            for layer in adapter.sizes:
                found = adapter.tensors(layer)
                for ours, peft in (("A", "lora_A"), ("B", "lora_B")):
                    tensors[f"{PREFIX}{layer}.{peft}.weight"] = found[ours][number].float()
            fill(unfinished / into, recipe.config, tensors, adapter.folder)
    return {name: target / into for name, into in zip(names, folder_names(names), strict=True)}


def _groups(wanted: dict[str, _Wanted], base: Base, library: Path) -> list[dict[str, _Wanted]]:
    """Those who can share a run: the same settings, and as many steps."""
    found: dict[str, dict[str, _Wanted]] = {}
    for name, each in wanted.items():
        key = _settings(each, base, library)
        found.setdefault(name if key is None else key, {})[name] = each
    return list(found.values())


def _settings(each: _Wanted, base: Base, library: Path) -> str | None:
    """All that must be the same for experts of one run, as a text; None where one is better trained alone."""
    run = resolve(each.config, base[0], library / RUNS / "x")
    chosen = choose_method(each.config.method)
    if not FIELDS.issuperset(chosen.given) or run.config.train.get("load_best_model_at_end"):
        return None
    if run.args.optim not in BY_NUMBERS or _balances_experts(run.args, base[0]):
        return None
    quiet = Console(quiet=True)
    with quiet_libraries():
        _, plan, _ = run.prepare_data([each.task], *base, quiet)
    training = {k: v for k, v in run.config.train.items() if k not in ("num_train_epochs", "max_steps")}
    method = {**chosen.method.defaults, **chosen.given}
    said = [method, training, plan.packed, run.schedule.steps(len(plan))]
    return json.dumps(said, sort_keys=True, default=str)


def _balances_experts(args: SFTConfig, base: PreTrainedModel) -> bool:
    """Whether a loss of the base's own router is added, which is of all rows of a batch at once: TRL adds it where a
    mixture of experts can give it."""
    text, coefficient = base.config.get_text_config(), args.router_aux_loss_coef
    coefficient = getattr(text, "router_aux_loss_coef", 0.0) if coefficient is None else coefficient
    return hasattr(text, "output_router_logits") and coefficient != 0


def _run_folder(library: ExpertLibrary, name: str, resume: bool) -> Path:
    """Where a run lies, which is no other's; one that has ended makes room for a new one."""
    (plain,) = folder_names([name])
    if plain != name:  # others may come to the same: "a b" and "a_b"
        plain += f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    folder = library.folder / RUNS / plain
    if not resume and RunFolder(folder).summary.is_file():
        shutil.rmtree(folder)
    return folder


def examples_of(task: Task, most: int = EXAMPLES) -> list[str]:
    """Up to `most` of a task's training prompts, from all over its data: what an expert is routed by if nobody gives
    others.

    Raises:
        UserError: as of `Task.training_examples`.
    """
    prompts = task.training_examples()
    places = {round(i * (len(prompts) - 1) / max(1, most - 1)) for i in range(most)}
    texts = [instruction_of(prompts[place].prompt).strip()[:LONGEST] for place in sorted(places)]
    return [text for text in dict.fromkeys(texts) if text]
