"""What a run file comes to, without weights and without training: settings, tasks, counts and memory."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel
from trl import SFTConfig

from loraweave.bases import check_vocabulary
from loraweave.bases.load import pick_dtype
from loraweave.bases.quantization import missing_library
from loraweave.config import WeaveConfig
from loraweave.data.mixture import Mixture, Realised
from loraweave.data.packing import keeps_examples_apart
from loraweave.data.prepare import longest_example
from loraweave.errors import in_a_line
from loraweave.estimate.fake_step import Batch
from loraweave.estimate.memory import Device, Memory, StepPlan, estimate
from loraweave.estimate.weightless import injected, sized_base, tokenizer_at_hand
from loraweave.quiet import quiet_libraries
from loraweave.runs.config import RunConfig
from loraweave.runs.language import language_notice
from loraweave.runs.methods import ChosenMethod, Method
from loraweave.runs.outlook import Outlook, outlook
from loraweave.runs.resolve import ResolvedRun, resolve
from loraweave.runs.settings import ONLY, uses_fsdp
from loraweave.tasks.outline import Outline, outlines, untrained_outlines
from loraweave.terminal import plain_console

LARGEST_ON_CPU = 1_000_000_000  # parameters; nobody trains larger ones there


@dataclass(frozen=True)
class DryRun:
    """What a run would be.

    Attributes:
        config: the run file with every default of training written out.
        folder: that it would be written to; taken: whether that folder holds something already.
        shipped: whether the model's sizes are those that ship with the package.
        parameters: of the base.
        method: the method. settings: its configuration, fields left empty or off not among them.
        layers: names of adapted layers, and how many of each.
        trainable: numbers that are trained.
        after: what can be done with the adapter.
        tasks: in the order of their ids.
        untrained: what is scored and not trained for (`eval.forgetting`).
        shares: for each task its share of an epoch, where that is known; of examples or tokens, as the mixture has it.
        realised: what each task gets, where tokenizer and data are at hand; steps: of the run, where they are known.
        args: for the trainer.
        memory: by column heading; empty where nothing is trained. memory_unknown: why it could not be estimated.
    """

    config: RunConfig
    folder: Path
    taken: bool
    shipped: bool
    parameters: int
    method: Method
    settings: dict[str, Any]
    layers: dict[str, int]
    trainable: int
    after: Outlook
    tasks: list[Outline]
    untrained: list[Outline]
    shares: list[float | None]
    realised: list[Realised]
    steps: int | None
    args: SFTConfig
    memory: dict[str, Memory]
    memory_unknown: str


def dry_run(config: RunConfig, output: str | Path | None = None, console: Console | None = None) -> DryRun:
    """Work out what `train` would do with these arguments: nothing is trained or written, and no weights are read.

    Args:
        config: the run file.
        output: the run's folder, as `train` takes it.
        console: where it is said what the data leave out; stderr when None.

    Raises:
        UserError: what a run would end with before its first step, where that shows without weights and data.
    """
    console = console or plain_console(stderr=True)
    with quiet_libraries():
        base, shipped = sized_base(config.base)
        parameters = sum(p.numel() for p in base.parameters())
        run = resolve(config, base, output)
        if (name := config.base.quantization) is not None and (missing := missing_library(name)) is not None:
            console.print(f"{missing}; a run here would end with that", markup=False, soft_wrap=True)
        config, args = run.config, run.args
        tasks = outlines(config.tasks, config.how_tasks_load)
        names = [task.name for task in tasks]
        trained = {task.name: task.data for task in tasks}
        untrained = untrained_outlines(config.eval.forgetting, trained, config.how_tasks_load)
        config.mixture.check_tasks(names)
        if run.method.method.trains != "nothing" and (notice := language_notice(base)):
            console.print(notice, markup=False, soft_wrap=True)
        adapted = injected(run, base, names)
        realised, rows = _data(run, base, tasks, console)
        shares: list[float | None] = [row["wanted"] for row in realised]
        memory: dict[str, Memory] = {}
        unknown = ""
        if run.method.method.trains != "nothing":
            try:
                memory = _memory(config, args, base, parameters, names)
            except Exception as error:  # a model may do anything on its way
                unknown = f"{type(error).__name__}: {in_a_line(error)}"
    return DryRun(
        config=config,
        folder=run.folder.path,
        taken=not run.folder.is_new,
        shipped=shipped,
        parameters=parameters,
        method=run.method.method,
        settings=_settings(run.method, names),
        layers=adapted.layers,
        trainable=adapted.trainable,
        after=outlook(run.method, adapted.config),
        tasks=tasks,
        untrained=untrained,
        shares=shares or _shares(config, tasks),
        realised=realised,
        steps=args.max_steps if args.max_steps > 0 else None if rows is None else run.schedule.steps(rows),
        args=args,
        memory=memory,
        memory_unknown=unknown,
    )


def _settings(choice: ChosenMethod, names: list[str]) -> dict[str, Any]:
    """The method's fields and what is in them; of PEFT's own methods, whose fields are many, those that were chosen."""
    method, given = choice.method, choice.given
    peft_config = choice.peft_config(names)
    values: dict[str, Any] = (
        {} if peft_config is None else {f.name: getattr(peft_config, f.name) for f in fields(peft_config)}
    )
    values |= choice.losses.model_dump()
    chosen = [*method.defaults, *method.losses, *given]
    shown = [name for name in method.fields() if name in chosen or isinstance(peft_config, WeaveConfig)]
    without_effect = {
        "temperature": values.get("gate") != "task",
        "task_embedding_dim": values.get("gate") != "task_embedding",
        "alignment_distance": not values["alignment"],
        "localized_delta": not values["localized_balance"],
        "up": values.get("up") == "per_head",
        "up_density": values.get("up_density") == 1,
        "init_weights": values.get("init_weights") is True,
        "gate_groups": values.get("gate_groups") == 1,
        "router_input": values.get("router_input") == "x",
        "train_down": values.get("train_down") is True,
    }
    empty: tuple[Any, ...] = (None, False, 0, {}, [], "none")
    return {name: values[name] for name in shown if values[name] not in empty and not without_effect.get(name)}


def _data(
    run: ResolvedRun, base: PreTrainedModel, tasks: list[Outline], console: Console
) -> tuple[list[Realised], int | None]:
    """What each task gets, as a real run works it out, and the rows of an epoch; with the data and tokenizer at hand.

    Without the tokenizer the rows of an epoch are known where each holds one example.
    """
    loaded = [outline.task for outline in tasks if outline.task is not None]
    if len(loaded) < len(tasks) or run.method.method.trains == "nothing":
        return [], None
    if (tokenizer := tokenizer_at_hand(run.config.base)) is not None:
        check_vocabulary(base, tokenizer, run.config.base.name)
        data, plan, _ = run.prepare_data(loaded, base, tokenizer, console)
        return data.realised(plan.seen(run.schedule.rows(len(plan)))), len(plan)
    config = run.config
    if config.mixture.by == "tokens" or config.train["packing"]:
        return [], None
    return [], sum(int(quota) for quota in _unit_mixture(config, tasks).quotas)


def _unit_mixture(config: RunConfig, tasks: list[Outline]) -> Mixture:
    """The mixture of examples, for which their lengths do not matter."""
    lengths = {outline.name: [1] * len(outline.task.training_examples()) for outline in tasks if outline.task}
    return Mixture.build(lengths, config.mixture, seed=config.seed)


def _shares(config: RunConfig, tasks: list[Outline]) -> list[float | None]:
    """The shares that the mixture wants, where they can be told without all data."""
    mixture = config.mixture
    if all(outline.task for outline in tasks) and mixture.by == "examples":
        return [float(share) for share in _unit_mixture(config, tasks).shares]
    if mixture.strategy == "equal" or len(tasks) == 1:
        return [1 / len(tasks)] * len(tasks)
    if mixture.weights is not None:
        return [mixture.weights[outline.name] / sum(mixture.weights.values()) for outline in tasks]
    return [None] * len(tasks)


def _memory(
    config: RunConfig, args: SFTConfig, base: PreTrainedModel, parameters: int, names: list[str]
) -> dict[str, Memory]:
    """The memory of each kind of device that this run may meet."""
    length, packed = config.train["max_length"], bool(config.train["packing"]) and keeps_examples_apart(base)
    if not packed:  # a packed row may be longer than what the model reads: positions begin anew at each example
        length = longest_example(length, base)

    def on(device: Device) -> Memory:
        bf16 = config.train.get("bf16", device == "gpu" and not args.fp16) if device == "gpu" else args.bf16
        plan = StepPlan(
            batch=Batch(args.per_device_train_batch_size, length, packed),
            validation=None if args.eval_strategy == "no" else Batch(args.per_device_eval_batch_size, length, packed),
            autocast=torch.bfloat16 if bf16 else torch.float16 if args.fp16 else None,
            checkpointing=args.gradient_checkpointing,
            accumulate=args.gradient_accumulation_steps > 1,
            optim=str(getattr(args.optim, "value", args.optim)),
            only=config.train.get(ONLY),
        )
        spec = config.base
        weights = None if spec.dtype == "auto" else pick_dtype(spec.dtype)
        return estimate(base.config, config.method, names, plan, device, weights, spec.quantization)

    gpu = on("gpu")
    devices = int(os.environ.get("WORLD_SIZE", 1))
    if uses_fsdp(args):
        return {f"{n} GPUs, FSDP": gpu.sharded(n) for n in ([devices] if devices > 1 else [2, 4, 8])}
    if devices > 1:
        return {f"each of {devices} GPUs": gpu.data_parallel()}
    if torch.cuda.is_available() or parameters > LARGEST_ON_CPU:
        return {"one GPU": gpu}
    return {"one GPU": gpu, "this CPU": on("cpu")}
