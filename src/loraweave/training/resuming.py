"""How a run ends that is asked to, and what one that goes on from a checkpoint has to make up for."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from loraweave.stopping import GO_ON, Request, Stopped

if TYPE_CHECKING:
    from loraweave.training.trainer import MultiTaskTrainer


EVERY = 3.0
"""Seconds after which the processes of a run ask each other: launchers and clusters wait for some thirty."""


class StopWhenAsked(TrainerCallback):
    """A run that is asked to end finishes its step, saves a checkpoint and ends.

    Several processes agree on it every few seconds: at every step they would wait for each other, and for their
    devices, more often than they need to. How many steps that is follows from what all of them have measured, so that
    none waits where the others do not.
    """

    def __init__(self, request: Request, folder: Path) -> None:
        self.request = request
        self.folder = folder
        self.trainer: MultiTaskTrainer | None = None
        self.agreed = False
        self._last: tuple[int, float] = (0, 0.0)
        self._next = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last, self._next = (state.global_step, time.monotonic()), state.global_step + 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size == 1:
            self.agreed = self.request.asked
        elif state.global_step >= self._next and self.trainer is not None:
            (step, since), now = self._last, time.monotonic()
            told = torch.tensor([int(self.request.asked), int(1000 * (now - since))], device=args.device)
            asked, milliseconds = self.trainer.accelerator.reduce(told, "max").tolist()
            steps = 1000 * EVERY * (state.global_step - step) / max(1, milliseconds)
            self.agreed = bool(asked)
            self._last, self._next = (state.global_step, now), state.global_step + max(1, int(steps))
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
            metrics = self.trainer._evaluate(None, None)
            self.trainer._determine_best_metric(metrics, None)


def is_logged(line: dict[str, Any], state: Any) -> bool:
    """Whether a trainer's state knows of a line of metrics.jsonl: one of the same kind at the same step."""
    kind = (line["step"], "eval_loss" in line)
    return kind in {(entry.get("step"), "eval_loss" in entry) for entry in state.log_history}
