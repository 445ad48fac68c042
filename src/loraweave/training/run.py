"""One run: train a method on a mixture of tasks, and leave a folder from which it can be loaded and resumed."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.integrations import TensorBoardCallback
from trl import SFTConfig

from loraweave.bases import fingerprint, load_base
from loraweave.data.mixture import Realised, realised_table
from loraweave.data.packing import Plan, keeps_examples_apart, validation_plan
from loraweave.data.prepare import RunData, load_data, longest_example
from loraweave.errors import UserError
from loraweave.files import disk_is_full, read_json, write_json, written_whole
from loraweave.quiet import quiet_libraries
from loraweave.runs.adapting import adapted
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import RunFolder, environment
from loraweave.runs.methods import build_losses, default_learning_rate, resolve_method
from loraweave.runs.settings import DEFAULTS, build_arguments, uses_fsdp
from loraweave.tasks import Task, load_tasks
from loraweave.training.callbacks import Clock, MetricsFile, Reporter
from loraweave.training.gradients import GradientRecord
from loraweave.training.memory import PeakMemory
from loraweave.training.progress import RunProgress
from loraweave.training.trainer import MultiTaskTrainer
from loraweave.tuner.wrappers import without_checkpoint_wrappers

Base = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class RunResult:
    """What a run came to; also in its `summary.json`.

    Attributes:
        folder: of the run.
        method: its name.
        adapter: folder of the adapter, or of the model for full fine-tuning; None for the untouched base.
        learning_rate: highest of the schedule; None where nothing is trained.
        rank: of the adapter; None where it has none.
        trainable_parameters: in numbers.
        steps: optimizer steps.
        best_step: with the lowest validation loss, averaged over tasks; None without validation.
        best_loss: that loss, in nats per completion token.
        seconds: in training steps alone; evaluation and saving left out.
        tokens: trained on, padding left out, and tokens_per_second.
        peak_memory: in bytes, of the accelerator or else of the process.
        packed: whether rows held several examples.
        mixture: what each task got.
        cut, dropped: per task, examples whose prompt was shortened and those left out as too long.
    """

    folder: Path
    method: str
    adapter: Path | None
    learning_rate: float | None
    rank: int | None
    trainable_parameters: int
    steps: int
    best_step: int | None
    best_loss: float | None
    seconds: float
    tokens: int
    tokens_per_second: float
    peak_memory: int
    packed: bool
    mixture: list[Realised]
    cut: dict[str, int]
    dropped: dict[str, int]


def train(
    config: RunConfig,
    output: str | Path | None = None,
    *,
    base: Base | None = None,
    tasks: Sequence[Task] | None = None,
    progress: RunProgress | None = None,
    console: Console | None = None,
    resume: bool = False,
) -> RunResult:
    """Train what a run file asks for.

    Args:
        config: the run file.
        output: the run's folder; by default the run file's `output`, else `runs/<method>`.
        base: model and tokenizer, if already loaded; the model is given back untouched.
        tasks: if already loaded.
        progress: shows how the run goes; nothing is shown when None.
        console: where the realised mixture and warnings are printed; stderr when None.
        resume: go on from the last good checkpoint in `output`, if there is one.

    Raises:
        UserError: anything that a person can put right: an impossible configuration, bad data, a folder that already
            holds a run, a full disk, a loss that is not a number.
    """
    console = console or Console(stderr=True)
    folder = RunFolder(output or config.output or Path("runs") / config.method_name)
    with quiet_libraries():
        model, tokenizer = base or load_base(config.model)
        config = resolved(config, model)
        args = build_arguments(config.train, config.seed, folder.path)
        if base is not None and uses_fsdp(args):
            raise UserError(
                "FSDP keeps the base that it has sharded: start each method by itself, with loraweave train"
            )
        main = args.process_index == 0
        new = main and folder.is_new
        try:
            with args.main_process_first(local=False):
                checkpoint = folder.open(config, resume or not main)
            console = console if main else Console(quiet=True)
            tasks = tasks or load_run_tasks(config)
            return _train(
                config, folder, args, model, tokenizer, tasks, checkpoint, base is not None, progress, console
            )
        except BaseException as error:
            if new:
                folder.discard_unbegun()
            if isinstance(error, OSError) and disk_is_full(error):
                raise UserError(
                    f"{folder.path}: the disk is full; checkpoints written before are still there"
                ) from error
            raise


def load_run_tasks(config: RunConfig) -> list[Task]:
    """The tasks of a run file, in the order of their ids."""
    return load_tasks(config.tasks, config.base_dir, config.data_dir, config.chat_template, config.seed)


def _train(
    config: RunConfig,
    folder: RunFolder,
    args: SFTConfig,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    checkpoint: Path | None,
    keep_base: bool,
    progress: RunProgress | None,
    console: Console,
) -> RunResult:
    method, _ = resolve_method(config.method)
    names = [task.name for task in tasks]
    memory = PeakMemory()
    main = args.process_index == 0
    if main:
        write_json(folder.base, {"name": config.model, "fingerprint": fingerprint(base)})
        write_json(folder.environment, environment(config.seed))
    if method.trains == "nothing":
        return _finish(folder, _nothing_trained(folder, method.name, memory), main)

    data, plan, validation = prepare_data(config, args, base, tokenizer, tasks, console)
    examples = plan.examples(rows_used(args, len(plan)))
    realised = data.realised(examples)
    if main:
        write_json(folder.mixture, realised)
    console.print(realised_table(realised, "The mixture of this run"))

    clock = Clock()
    with adapted(base, config.method, names, config.seed, keep_base) as model:
        callbacks = _callbacks(folder, config, method.name, clock, progress)
        sources = [rows for rows in (data.validation, data.training) if rows is not None]
        gradients = GradientRecord(folder.gradients, names, sources, len(examples), clock, console)
        losses = build_losses(config.method)
        trainer = MultiTaskTrainer(model, args, tokenizer, plan, validation, names, [*callbacks, gradients], losses)
        clock.trainer = gradients.trainer = trainer
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            saved = _save(folder, model, tokenizer, main, trainer)
            if main and (routing := trainer.auxiliary.routing()) is not None:
                write_json(folder.routing, routing)
        finally:
            trainer.release()
            _close_tensorboard(callbacks)
            if progress is not None:
                progress.stop()
        state = trainer.state
        adapter_config: Any = model.active_peft_config if isinstance(model, PeftModel) else None
        return _finish(
            folder,
            RunResult(
                folder=folder.path,
                method=method.name,
                adapter=saved,
                learning_rate=config.train["learning_rate"],
                rank=getattr(adapter_config, "r", None),
                trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
                steps=state.global_step,
                best_step=state.best_global_step,
                best_loss=state.best_metric,
                seconds=round(clock.seconds, 3),
                tokens=clock.tokens,
                tokens_per_second=round(clock.tokens_per_second, 1),
                peak_memory=memory.bytes,
                packed=plan.packed,
                mixture=realised,
                cut=data.cut,
                dropped=data.dropped,
            ),
            main,
        )


def own_learning_rate(config: RunConfig, model: PreTrainedModel) -> float:
    """The learning rate that the run file has for its method, or else the method's default for this model."""
    rate = config.train.get("learning_rate")
    if isinstance(rate, Mapping):  # one for each method, as a comparison wants them
        rate = rate.get(config.method_name)
    return default_learning_rate(config.method, model) if rate is None else rate


def resolved(config: RunConfig, model: PreTrainedModel) -> RunConfig:
    """The run file with every default of training written out."""
    rate = own_learning_rate(config, model)
    return config.model_copy(update={"train": {**DEFAULTS, **config.train, "learning_rate": rate}})


def prepare_data(
    config: RunConfig,
    args: SFTConfig,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    console: Console,
) -> tuple[RunData, Plan, Plan | None]:
    """The rows of the whole run in their order, and those to validate on."""
    length = config.train["max_length"]
    longest = longest_example(length, base)
    data = load_data(tasks, tokenizer, longest, config.mixture, config.seed)
    for name, count in data.dropped.items():
        if count:
            console.print(f"{name}: {count} examples left out, their answer is longer than {longest} tokens")
    packing = bool(config.train["packing"])
    if packing and not keeps_examples_apart(base):
        console.print(f"{base.config.model_type} cannot keep packed examples apart, so rows hold one example each")
        packing = False
    plan = Plan(
        data.training,
        data.epoch,
        max_length=length,
        packing=packing,
        seed=config.seed,
        epochs=1 if args.max_steps > 0 else math.ceil(args.num_train_epochs),
        minimum=max(0, args.max_steps) * _rows_per_step(args),
    )
    if args.eval_strategy == "no":
        return data, plan, None
    if data.validation is None:
        raise UserError("no task has validation examples; set train.eval_strategy to no")
    return data, plan, validation_plan(data.validation, length, packing)


def _callbacks(
    folder: RunFolder, config: RunConfig, method: str, clock: Clock, progress: RunProgress | None
) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [clock, MetricsFile(folder.metrics, clock)]
    if "tensorboard" in config.train["report_to"]:
        callbacks.append(TensorBoardCallback(SummaryWriter(str(folder.tensorboard))))
    if progress is not None:
        callbacks.append(Reporter(method, progress, clock))
    return callbacks


def _close_tensorboard(callbacks: Sequence[TrainerCallback]) -> None:
    """Let go of the event file, also where training ended with an error and the callback did not hear of it."""
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            with contextlib.suppress(OSError):  # what is still in its buffer may not fit on a full disk
                callback.tb_writer.close()


def _save(
    folder: RunFolder,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    main: bool,
    trainer: MultiTaskTrainer,
) -> Path:
    """Save the adapter, or the whole model where all of it was trained, with the base's name and fingerprint."""
    is_adapter = isinstance(model, PeftModel)
    target = folder.adapter if is_adapter else folder.model
    state = None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # every process holds a part, and all must send theirs
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not main:
        return target
    with written_whole(target) as unfinished:
        with without_checkpoint_wrappers(model):
            model.save_pretrained(unfinished, state_dict=state)
        if is_adapter:
            (unfinished / "base.json").write_bytes(folder.base.read_bytes())
        else:
            tokenizer.save_pretrained(unfinished)
    return target


def _finish(folder: RunFolder, result: RunResult, main: bool) -> RunResult:
    if not main:
        return result
    values = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(result).items() if k != "folder"}
    values["adapter"] = result.adapter.name if result.adapter else None  # so that the folder may be moved
    write_json(folder.summary, values)
    return result


def _nothing_trained(folder: RunFolder, method: str, memory: PeakMemory) -> RunResult:
    return RunResult(
        folder.path, method, None, None, None, 0, 0, None, None, 0.0, 0, 0.0, memory.bytes, False, [], {}, {}
    )


def _rows_per_step(args: SFTConfig) -> int:
    return args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps


def steps_of(args: SFTConfig, rows_per_epoch: int) -> int:
    """Optimizer steps of a run."""
    if args.max_steps > 0:
        return args.max_steps
    return math.ceil(args.num_train_epochs * math.ceil(rows_per_epoch / _rows_per_step(args)))


def rows_used(args: SFTConfig, rows_per_epoch: int) -> int:
    """Rows that the run will have trained on at its end; the last step of an epoch may hold fewer than the others."""
    per_step = _rows_per_step(args)
    epochs, rest = divmod(steps_of(args, rows_per_epoch), math.ceil(rows_per_epoch / per_step))
    return epochs * rows_per_epoch + min(rows_per_epoch, rest * per_step)


def read_summary(folder: str | Path) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        UserError: the folder holds no finished run.
    """
    run = RunFolder(folder)
    if not run.summary.is_file():
        what = "the run in this folder did not finish" if run.config.exists() else "this folder holds no run"
        raise UserError(f"{run.path}: {what}")
    summary = read_json(run.summary)
    if "adapter" not in summary:
        raise UserError(f"{run.summary}: not the summary of a run by this version")
    return summary
