"""How a run ends that is asked to, and what one that goes on from a checkpoint has to make up for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from loraweave.stopping import GO_ON, Request, Stopped

if TYPE_CHECKING:
    from loraweave.training.trainer import MultiTaskTrainer


class StopWhenAsked(TrainerCallback):
    """A run that is asked to end finishes its step, saves a checkpoint and ends.

    Several processes agree on it where losses are logged: there they wait for each other anyway.
    """

    def __init__(self, request: Request, folder: Path) -> None:
        self.request = request
        self.folder = folder
        self.trainer: MultiTaskTrainer | None = None
        self.agreed = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size == 1:
            self.agreed = self.request.asked
        elif control.should_log and self.trainer is not None:
            if self.request.asked:
                self.trainer.accelerator.set_trigger()
            self.agreed = self.trainer.accelerator.check_trigger()
        if self.agreed:
            control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size == 1 and self.request.asked:  # meanwhile
            self.agreed = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.agreed:
            done = f"stopped after step {state.global_step} of {state.max_steps}, which is saved"
            raise Stopped(f"{self.folder}: {done}; {GO_ON}")


class MissedEvaluation(TrainerCallback):
    """A checkpoint of an epoch's last step may be older than its evaluation, which a run that goes on makes up for."""

    def __init__(self) -> None:
        self.trainer: MultiTaskTrainer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = state.epoch or 0.0
        at_end = epoch == int(epoch) or state.global_step >= state.max_steps
        due = args.eval_strategy == IntervalStrategy.EPOCH and args.eval_delay <= epoch and state.global_step > 0
        if due and at_end and not is_logged({"step": state.global_step, "eval_loss": None}, state):
            assert self.trainer is not None
            metrics = self.trainer._evaluate(None, None, skip_scheduler=True)
            self.trainer._determine_best_metric(metrics, None)


def is_logged(line: dict[str, Any], state: Any) -> bool:
    """Whether a trainer's state knows of a line of metrics.jsonl: one of the same kind at the same step."""
    kind = (line["step"], "eval_loss" in line)
    return kind in {(entry.get("step"), "eval_loss" in entry) for entry in state.log_history}
