"""One run: train a method on a mixture of tasks, and leave a folder from which it can be loaded and resumed."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.integrations import TensorBoardCallback

from loraweave.adapters.tensors import trained_numbers
from loraweave.adapters.write import BASE_RECORD
from loraweave.bases import Base, BaseSpec, fill_padding, let_save, load_base
from loraweave.bases.older import write_for_older
from loraweave.bases.processors import copy_processors
from loraweave.data.mixture import Realised, realised_table
from loraweave.errors import UserError, in_a_line
from loraweave.files import disk_is_full, hashes_of, read_json, write_json, written_whole
from loraweave.locks import locked
from loraweave.quiet import quiet_libraries
from loraweave.runs.adapting import adapted
from loraweave.runs.checkpoints import Start, check_processes, checkpoints_in
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import RunFolder, environment
from loraweave.runs.language import language_notice
from loraweave.runs.methods import ChosenMethod
from loraweave.runs.origin import describe_base, describe_data, hold_to, note_data
from loraweave.runs.outlook import outlook
from loraweave.runs.resolve import ResolvedRun, resolve
from loraweave.runs.run_card import add_run_section
from loraweave.runs.settings import ONLY, uses_fsdp
from loraweave.stopping import GO_ON, Request, listening
from loraweave.tasks import Task
from loraweave.terminal import plain_console
from loraweave.training.callbacks import Clock, MetricsFile, Reporter, RoutingFile
from loraweave.training.gradients import GradientRecord
from loraweave.training.memory import PeakMemory
from loraweave.training.progress import RunProgress
from loraweave.training.recipe import USUAL, Recipe
from loraweave.training.resuming import MissedEvaluation, StopWhenAsked
from loraweave.training.trainer import MultiTaskTrainer
from loraweave.tuner.wrappers import without_checkpoint_wrappers


@dataclass(frozen=True)
class RunResult:
    """What a run came to; also in its `summary.json`.

    Attributes:
        folder: of the run.
        method: its name.
        adapter: folder of the adapter, or of the model for full fine-tuning; None for the untouched base.
        learning_rate: the highest rate of the schedule; None where nothing is trained.
        rank: of the adapter; None where it has none.
        trainable_parameters: in numbers.
        steps: optimizer steps.
        best_step: with the lowest validation loss, averaged over tasks; None without validation.
        best_loss: that loss, in nats per completion token.
        seconds: in training steps alone; evaluation and saving left out.
        tokens: trained on, padding left out.
        tokens_per_second: of training steps alone.
        peak_memory: in bytes, of the accelerator or else of the process.
        packed: whether rows held several examples.
        mixture: what each task got, and what the length limit cost it.
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


def train(
    config: RunConfig | str | Path,
    output: str | Path | None = None,
    *,
    base: Base | None = None,
    tasks: Sequence[Task] | None = None,
    progress: RunProgress | None = None,
    console: Console | None = None,
    resume: bool = False,
    recipe: Recipe = USUAL,
) -> RunResult:
    """Train what a run file asks for, as `loraweave train` does.

    Args:
        config: a run file, or the path of one.
        output: the run's folder; by default the run file's `output`, else `runs/<method>`.
        base: model and tokenizer, if already loaded; the model is given back untouched.
        tasks: if already loaded.
        progress: shows how the run goes; nothing is shown when None.
        console: where the realised mixture and warnings are printed; stderr when None.
        resume: go on from the last good checkpoint in `output`, if there is one.
        recipe: what this run does in a way of its own.

    Raises:
        UserError: anything that a person can put right: an impossible configuration, bad data, a folder that already
            holds a run, a full disk, a loss that is not a number.
    """
    config, console = RunConfig.of(config), console or plain_console(stderr=True)
    with quiet_libraries():
        model, tokenizer = base or load_base(config.base)
        fill_padding(tokenizer, config.base.name)
        run = resolve(config, model, output)
        if base is not None and uses_fsdp(run.args):
            raise UserError(
                "FSDP keeps the base that it has sharded: start each method by itself, with loraweave train"
            )
        stops = listening(f"{run.folder.path}: stopped outside of its training steps; {GO_ON}")
        with stops as request, _alone(run), _removed_if_unbegun(run):
            start = _opened(run, resume)
            memory = PeakMemory()
            console = console if run.is_main else Console(quiet=True)
            if not tasks:
                tasks = run.config.load_tasks()
                run.config.load_forgetting(tasks)  # what is wrong with it must show before training, not after it
            trains = run.method.method.trains != "nothing"
            if run.is_main:
                described = describe_base(run.config.base, model, tokenizer)
                hold_to(run.folder, described, describe_data(tasks) if trains else {})
                note_data(run.folder, tasks, run.config.base_dir)
                made_at = {"base_dir": str(run.config.base_dir)}
                write_json(run.folder.environment, environment(run.config.seed) | made_at)
            if resume and (start.checkpoint is not None or run.folder.metrics.exists()):
                console.print(str(start), soft_wrap=True)
            if not trains:
                result = _nothing_trained(run, memory)
            else:
                result = _trained(
                    run,
                    (model, tokenizer),
                    tasks,
                    start.checkpoint,
                    base is not None,
                    memory,
                    progress,
                    console,
                    request,
                    recipe,
                )
            if run.is_main:
                _write_summary(run.folder, result)
            return result


def _alone(run: ResolvedRun) -> contextlib.AbstractContextManager[None]:
    """Keeps other commands out of the run's folder; the processes of one run are one command."""
    return locked(run.folder.path, "the run's folder") if run.is_main else contextlib.nullcontext()


def _opened(run: ResolvedRun, resume: bool) -> Start:
    """The run's folder, made ready by one process; the others begin where that one says, without reading all again."""
    with run.args.main_process_first(local=False):
        if run.is_main:
            start = run.folder.open(run.config, resume)
            if start.checkpoint is not None:
                check_processes(start.checkpoint, run.args.world_size)
            return start
        return Start(next(iter(checkpoints_in(run.folder.checkpoints)), None))


@contextlib.contextmanager
def _removed_if_unbegun(run: ResolvedRun) -> Iterator[None]:
    """Around a run: the folder of one that never made a step goes, so that the same command works another time."""
    new = run.is_main and run.folder.is_new
    try:
        yield
    except BaseException as error:
        if new:
            run.folder.discard_unbegun()
        if isinstance(error, OSError) and disk_is_full(error):
            raise UserError(
                f"{run.folder.path}: the disk is full; checkpoints written before are still there"
            ) from error
        raise


def _trained(
    run: ResolvedRun,
    base: Base,
    tasks: Sequence[Task],
    checkpoint: Path | None,
    keep_base: bool,
    memory: PeakMemory,
    progress: RunProgress | None,
    console: Console,
    request: Request,
    recipe: Recipe,
) -> RunResult:
    folder, names = run.folder, [task.name for task in tasks]
    if notice := language_notice(base[0]):
        console.print(notice, markup=False, soft_wrap=True)
    data, plan, validation = recipe.prepare(run, tasks, base, console)
    seen = plan.seen(run.schedule.rows(len(plan)))
    realised = data.realised(seen)
    if run.is_main:
        write_json(folder.mixture, realised)
    console.print(realised_table(realised, "The mixture of this run"))

    clock = Clock()
    with adapted(base[0], run.method, names, run.config.seed, keep_base, run.config.train.get(ONLY)) as model:
        recipe.begin(model)
        if isinstance(model, PeftModel):
            model.peft_config["default"].revision = run.config.base.revision
        trainable = sum(trained_numbers(model).values())  # before FSDP has them in parts
        callbacks = _callbacks(run, clock, progress)
        sources = [rows for rows in (data.validation, data.training) if rows is not None]
        wait_for_trainer: list[Any] = [
            GradientRecord(folder.gradients, names, sources, int(seen.sum()), clock, console),
            RoutingFile(folder.routing),
            StopWhenAsked(request, folder.path),
            MissedEvaluation(),
        ]
        callbacks += wait_for_trainer
        try:
            trainer = recipe.trainer(model, run.args, base[1], plan, validation, names, callbacks, run.method.losses)
        except (ValueError, ImportError) as error:  # what TRL and accelerate refuse of settings, for this base or here
            if isinstance(error, UserError):
                raise
            raise UserError(f"train: {in_a_line(error)}") from error
        for one in (clock, *wait_for_trainer):
            one.trainer = trainer
        try:
            with request.holding():
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            trainer.task_losses["train"].check()  # of steps since the last that was logged or saved
            saved = _save(folder, model, base[1], tasks, run.method, run.is_main, trainer)
        finally:
            trainer.release()
            _close_tensorboard(callbacks)
            if progress is not None:
                progress.stop()
        state = trainer.state
        adapter_config: Any = model.active_peft_config if isinstance(model, PeftModel) else None
        return RunResult(
            folder=folder.path,
            method=run.method.name,
            adapter=saved,
            learning_rate=run.config.train["learning_rate"],
            rank=getattr(adapter_config, "r", None),
            trainable_parameters=trainable,
            steps=state.global_step,
            best_step=state.best_global_step,
            best_loss=state.best_metric,
            seconds=round(clock.seconds, 3),
            tokens=clock.tokens,
            tokens_per_second=round(clock.tokens_per_second, 1),
            peak_memory=memory.bytes,
            packed=plan.packed,
            mixture=realised,
        )


def _callbacks(run: ResolvedRun, clock: Clock, progress: RunProgress | None) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = [clock, MetricsFile(run.folder.metrics, clock)]
    if "tensorboard" in (run.config.train["report_to"] or ()):
        callbacks.append(TensorBoardCallback(SummaryWriter(str(run.folder.tensorboard))))
    if progress is not None:
        callbacks.append(Reporter(run.method.name, progress, clock))
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
    tasks: Sequence[Task],
    method: ChosenMethod,
    main: bool,
    trainer: MultiTaskTrainer,
) -> Path:
    """Save the adapter with its base's name and fingerprint, or the whole model where all of it was trained; with
    tokenizer, chat template and, for an adapter, a card."""
    is_adapter = isinstance(model, PeftModel)
    target = folder.adapter if is_adapter else folder.model
    state = None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # every process holds a part, and all must send theirs
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not main:
        return target
    with written_whole(target) as unfinished:
        let_save(model)
        with without_checkpoint_wrappers(model):
            model.save_pretrained(unfinished, state_dict=state)
        if is_adapter:
            write_json(unfinished / BASE_RECORD, read_json(folder.base))
            add_run_section(unfinished, tasks, outlook(method, model.active_peft_config))
        else:
            copy_processors(model, BaseSpec.of_record(read_json(folder.base)), unfinished)
        tokenizer.save_pretrained(unfinished)
        write_for_older(unfinished)
    return target


def _write_summary(folder: RunFolder, result: RunResult) -> None:
    values = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(result).items() if k != "folder"}
    values["adapter"] = result.adapter.name if result.adapter else None  # so that the folder may be moved
    if result.adapter is not None:
        hashes = hashes_of(result.adapter).items()
        values["trained_files"] = {f"{result.adapter.name}/{k}": v for k, v in hashes if k != "README.md"}
    write_json(folder.summary, values)


def _nothing_trained(run: ResolvedRun, memory: PeakMemory) -> RunResult:
    path, name = run.folder.path, run.method.name
    return RunResult(path, name, None, None, None, 0, 0, None, None, 0.0, 0, 0.0, memory.bytes, False, [])
