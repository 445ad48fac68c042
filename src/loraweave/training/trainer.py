"""The trainer: TRL's SFTTrainer, with tasks per token, a loss per task, and data whose order is fixed beforehand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy, rotate_checkpoints
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from loraweave.bases import let_save
from loraweave.config import WeaveConfig
from loraweave.data.collate import Collator
from loraweave.data.order import EpochSampler
from loraweave.data.plan import RowPlan
from loraweave.data.schedule import Schedule
from loraweave.runs.checkpoints import STATE, best_of, finish, saved_or_told
from loraweave.runs.loss_config import LossConfig
from loraweave.training.auxiliary import Auxiliary
from loraweave.training.head import fused_head_fits, hidden_states_at, of_own_head
from loraweave.training.losses import TaskLosses
from loraweave.training.reading import plainly
from loraweave.training.unnoticed import unnoticed
from loraweave.tuner.wrappers import without_checkpoint_wrappers


class MultiTaskTrainer(SFTTrainer):
    """Train a causal model, adapted by PEFT or not, on rows of several tasks.

    The loss is the mean over all completion tokens of a step, whatever their task, over accumulated batches and
    processes. `loss/<task>` is logged in training; `eval_loss`, `eval_loss/<task>` and `eval_loss_macro`, the plain
    mean over tasks, in evaluation. A loss that is not a number ends the run with a UserError.

    Args:
        model: the model; given back as it was by `release`.
        args: from `settings.build_arguments`.
        tokenizer: its padding token fills rows up.
        train: the rows of the whole run.
        validation: the rows to evaluate on; None where the arguments ask for no evaluation.
        task_names: the tasks in the order of their ids.
        callbacks: Hugging Face callbacks.
        losses: added to the language model's, with router health beside it: see `auxiliary.Auxiliary.read`.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        args: SFTConfig,
        tokenizer: PreTrainedTokenizerBase,
        train: RowPlan,
        validation: RowPlan | None,
        task_names: Sequence[str],
        callbacks: Sequence[TrainerCallback] = (),
        losses: LossConfig | None = None,
    ) -> None:
        self._aside: Path | None = None  # where a checkpoint is being written
        self.sampler = EpochSampler(train, args.per_device_train_batch_size, args.world_size)
        self.schedule = Schedule.of(args)
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        attention = getattr(base.config, "_attn_implementation", None) or ""
        flash = "flash" in attention
        self._own_forward = base.__dict__.get("forward")
        trained = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
        text, routers = base.config.get_text_config(), ("output_router_logits", "router_aux_loss_coef")
        written = {name: getattr(text, name) for name in routers if hasattr(text, name)}
        super().__init__(
            model=model,
            args=args,
            data_collator=Collator(tokenizer.pad_token_id, flash and train.packed, 1 if args.use_cpu or flash else 8),
            train_dataset=datasets.Dataset.from_list([{"input_ids": [0], "labels": [0]}]),
            eval_dataset=validation,
            processing_class=tokenizer,
            callbacks=[*callbacks, _EpochOrder(self.sampler)],
        )
        # Small steps get lost in 16 bits. TRL has rounded to them what is trained on a quantised base; biases, and
        # modules trained whole have the type of the base's weights, and autocast takes them in 32 bits too.
        for parameter, values in trained:
            parameter.data = values.float() if args.bf16 or args.fp16 else values
        for name, value in written.items():  # TRL sets them for its own forward, and they would be saved and stay
            setattr(text, name, value)
        self.train_dataset = train  # TRL takes only a `datasets.Dataset`, and reads no more of it than one row
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = (
            True  # `compute_loss` counts tokens itself, whatever the model's signature says
        )
        self.base = base
        self._restore_forward()
        add_fused_lm_head(base)  # log-probabilities alone: TRL's entropy and accuracy cost time in every step
        self.takes_tasks = isinstance(model, PeftModel) and isinstance(model.active_peft_config, WeaveConfig)
        self.task_losses = {mode: TaskLosses(task_names, args.device) for mode in ("train", "eval")}
        self.auxiliary = Auxiliary(model, losses or LossConfig(), task_names, self.accelerator)
        self.fused: bool | None = None  # whether TRL's head is the base's; tried on the first batch

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The loss of one batch: the sum over its scored tokens, divided by the scored tokens of the whole step."""
        mode = "train" if self.model.training else "eval"
        scored = inputs["scored"]
        tasks = inputs["tasks"].flatten()[scored + 1]
        probe = None
        if mode == "train":
            micro_batches = self.current_gradient_accumulation_steps
            probe = self.auxiliary.probe(inputs["tasks"], inputs["padding"], micro_batches, self._logs_this_step())
        with self.auxiliary.watch(probe):
            outputs = self.scored_outputs(model, inputs)
        losses = -outputs.log_probs.flatten()
        self.task_losses[mode].add(losses.detach(), tasks, self.state.global_step + (mode == "train"))

        loss = self.mean_loss(losses, tasks, num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())  # DDP averages over processes
        if self.aux_loss_enabled:
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps
        if probe is not None:
            added = self.auxiliary.loss(probe, micro_batches, last=self.accelerator.sync_gradients)
            loss = loss if added is None else loss + added
        return loss

    def mean_loss(self, losses: torch.Tensor, tasks: torch.Tensor, items: Any) -> torch.Tensor:
        """A batch's part of the mean over all scored tokens of a step.

        Args:
            losses: (n,) of its scored tokens. tasks: (n,) their ids.
            items: the scored tokens of the step; those of the batch when None.
        """
        items = len(losses) if items is None else items  # none, in a batch of blank rows, which evens out processes
        return losses.sum() / (items.clamp(min=1) if isinstance(items, torch.Tensor) else max(1, items))

    def scored_outputs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """The model's outputs for a batch; their `log_probs` (1, n) are of its scored positions alone."""
        if self.fused is None:
            self.fused = self._try_fused_head(model, inputs["input_ids"].device)
        forward: dict[str, Any] = {key: inputs[key] for key in ("input_ids", "position_ids") if key in inputs}
        if self.takes_tasks:
            forward["tasks"] = inputs["tasks"]
        if self.aux_loss_enabled:
            forward["output_router_logits"] = True
            if "position_ids" not in forward and inputs["tokens"] < inputs["input_ids"].numel():
                # else experts would be evened out over padding too
                forward["attention_mask"] = (~inputs["padding"]).long()
        targets = inputs["labels"].flatten()[inputs["scored"] + 1]
        with hidden_states_at(self.base, inputs["scored"]):
            if self.fused:
                return model(**forward, shift_labels=targets[None], use_cache=False, fused_lm_head=True)
            return of_own_head(model(**forward, use_cache=False), targets)

    def _try_fused_head(self, model: Any, device: torch.device) -> bool:
        told = {"tasks": 0} if self.takes_tasks else {}
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            model = self.model  # which is not compiled, for other shapes
        try:
            with self.auxiliary.watch(None), unnoticed(model, self.args.device):
                return fused_head_fits(model, self.base, device, **told)
        finally:
            torch.clear_autocast_cache()  # of weights cast without a gradient

    def _logs_this_step(self) -> bool:
        """Whether the step under way will be logged; where that is not known beforehand, now and then."""
        every = self.state.logging_steps if self.args.logging_strategy == IntervalStrategy.STEPS else 10
        return (self.state.global_step + 1) % max(1, every) == 0

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One batch forward and backward. On a CPU a bad loss is seen before the weights take it; on a GPU, where
        looking would make every step wait, it is seen at the next logged or saved step."""
        loss = super().training_step(*args, **kwargs)
        if loss.device.type == "cpu" and self.args.world_size == 1:
            self.task_losses["train"].check()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the losses per task to what is logged."""
        if "loss" in logs:
            self.task_losses["train"].check()
            by_task = self.task_losses["train"].read(self.accelerator)
            logs |= {f"loss/{name}": loss for name, loss in by_task.items() if name}
            logs |= self.auxiliary.read()
            logs["num_tokens"] = self.tokens_seen
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """The usual loop; then the loss per token, per task, and the mean over tasks. Training's random numbers stay:
        a run that goes on may evaluate at other times."""
        losses = self.task_losses["eval"]
        losses.read(self.accelerator)
        with torch.random.fork_rng([self.args.device] if self.args.device.type == "cuda" else ()):
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        losses.check()
        by_task = losses.read(self.accelerator)
        output.metrics[f"{metric_key_prefix}_loss"] = by_task.pop("")
        output.metrics.update({f"{metric_key_prefix}_loss/{name}": loss for name, loss in by_task.items()})
        output.metrics[f"{metric_key_prefix}_loss_macro"] = sum(by_task.values()) / len(by_task)
        return output

    def release(self) -> None:
        """Give the base back as it was: TRL had replaced its forward, losses on A x had hooked its layers, and noise
        its embeddings where training did not come to its end."""
        self._restore_forward()
        if (noise := getattr(self, "neftune_hook_handle", None)) is not None:
            noise.remove()
        self.auxiliary.release()

    def _restore_forward(self) -> None:
        self.base.__dict__.pop("forward", None)
        if self._own_forward is not None:
            self.base.forward = self._own_forward

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self.sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> EpochSampler:
        return EpochSampler(eval_dataset, self.args.eval_batch_size, self.args.world_size)

    @property
    def tokens_seen(self) -> int:
        """Real tokens trained on in all steps so far, by all processes."""
        plan = self.sampler.plan
        return plan.tokens(self.schedule.rows_after(self.state.global_step, len(plan)))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """A run that was stopped after its last step has none left, where transformers would take one more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Written aside by all processes, and put in place by one; older ones go after that."""
        self.task_losses["train"].check()
        checkpoint = self._checkpoint(self.state.global_step)
        with saved_or_told(checkpoint) as unfinished:
            self._aside = unfinished
            try:
                super(SFTTrainer, self)._save_checkpoint(model, trial)  # TRL's own would also write a model card
            finally:
                self._aside = None
            if self.state.best_global_step == self.state.global_step:
                self.state.best_model_checkpoint = str(checkpoint)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.state.save_to_json(str(unfinished / checkpoint.name / STATE))
                finish(unfinished, checkpoint, self.args.world_size)
        if self.args.should_save:
            rotate_checkpoints(self.args.output_dir, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._aside or self.args.output_dir)

    def _checkpoint(self, step: int) -> Path:
        return Path(self.args.output_dir) / f"checkpoint-{step}"

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """A step that was saved before it was evaluated may be the best: its checkpoint is there already."""
        found = bool(super()._determine_best_metric(metrics, trial))
        if found and (checkpoint := self._checkpoint(self.state.global_step)).is_dir():
            self.state.best_model_checkpoint = str(checkpoint)
        return found

    def _init_training_state(
        self, max_steps: int, steps: int, epochs: int, resume_from_checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        """A checkpoint names the best one by its path, which may have changed since; and a kill may have come before
        older ones were taken away."""
        trained = super()._init_training_state(max_steps, steps, epochs, resume_from_checkpoint, trial)
        if resume_from_checkpoint and (best := best_of(Path(resume_from_checkpoint))) and best.is_dir():
            self.state.best_model_checkpoint = str(best)
        if resume_from_checkpoint and self.args.should_save:
            rotate_checkpoints(self.args.output_dir, self.args.save_total_limit, self.state.best_model_checkpoint)
        return trained

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with plainly(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with plainly(checkpoint or ""):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with plainly(checkpoint or ""):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        with plainly(self.state.best_model_checkpoint or ""):
            super()._load_best_model()

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        let_save(self.model)
        with without_checkpoint_wrappers(self.model):
            super().save_model(*args, **kwargs)

    def _send_telemetry(self) -> None:
        """TRL reports every run to its makers; a run here is nobody else's business."""


class _EpochOrder(TrainerCallback):
    """Tell the sampler the epoch, also where a resumed run under several processes would not."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.set_epoch(int((state.epoch or 0.0) + 1e-6))
