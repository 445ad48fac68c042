"""What happens beside the training loop: metrics as JSON lines, the progress bar, and the run's costs."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from loraweave.files import append_json_line, write_json, write_json_lines
from loraweave.shapes import read_metrics
from loraweave.training.progress import RunProgress
from loraweave.training.resuming import is_logged

if TYPE_CHECKING:
    from loraweave.training.trainer import MultiTaskTrainer


class Clock(TrainerCallback):
    """Training time without evaluation and saving, and the tokens trained on in it.

    Attributes:
        seconds: spent in training steps, over all parts of a resumed run.
        trainer: set once the trainer exists, to read its token count.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.trainer: MultiTaskTrainer | None = None
        self._since: float | None = None

    @property
    def tokens(self) -> int:
        """Real tokens trained on."""
        return self.trainer.tokens_seen if self.trainer else 0

    @property
    def tokens_per_second(self) -> float:
        """Mean over the training steps so far."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.seconds += now - (self._since or now)
        self._since = now  # loading the next batch belongs to the next step

    def pause(self, *args: Any, **kwargs: Any) -> None:
        """What follows, up to the next step, is no training."""
        self._since = None

    on_evaluate = on_save = pause


class MetricsFile(TrainerCallback):
    """Append everything that is logged to a file, one JSON object per line.

    Each line has `step`, `epoch`, `seconds` and `tokens` so far, and either `loss`, `loss/<task>`, `learning_rate`,
    `grad_norm` and `tokens_per_second`, or `eval_loss`, `eval_loss/<task>` and `eval_loss_macro`.
    """

    _LEFT_OUT = ("_runtime", "_per_second", "_preparation_time", "total_flos", "num_tokens")

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.clock = clock

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        values = {k: v for k, v in logs.items() if k != "epoch" and not k.endswith(self._LEFT_OUT)}
        line = {
            "step": state.global_step,
            "epoch": state.epoch,
            "seconds": round(self.clock.seconds, 3),
            "tokens": self.clock.tokens,
            **({"tokens_per_second": round(self.clock.tokens_per_second, 1)} if "loss" in values else {}),
            **values,
        }
        append_json_line(self.path, line)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A resumed run starts again from its checkpoint: what was logged after that is not part of it.

        Raises:
            UserError: a line is not one of those written here; names it.
        """
        if not self.path.exists() or not state.is_world_process_zero:
            return
        kept = [line for line in read_metrics(self.path) if line["step"] < state.global_step or is_logged(line, state)]
        write_json_lines(self.path, kept)
        if kept:
            self.clock.seconds = kept[-1]["seconds"]


class RoutingFile(TrainerCallback):
    """Write how the heads are used before each checkpoint: a run resumed after its last step looks at no step again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trainer: MultiTaskTrainer | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save:
            self.write(state)

    on_epoch_end = on_step_end

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write(state)

    def write(self, state: Any) -> None:
        """Nothing is written where heads are not weighed, or where no step has been looked at."""
        routing = self.trainer.auxiliary.routing() if self.trainer is not None else None
        if state.is_world_process_zero and routing is not None:
            write_json(self.path, routing)


class Reporter(TrainerCallback):
    """Drive a progress display."""

    def __init__(self, name: str, progress: RunProgress, clock: Clock) -> None:
        self.name = name
        self.progress = progress
        self.clock = clock
        self.loss: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.progress.start(self.name, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not control.should_log:
            self._report(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        if "loss" in logs:  # a logged step is shown once its loss is known
            self.loss = logs["loss"]
            self._report(state)

    def _report(self, state: Any) -> None:
        if state.is_world_process_zero:
            self.progress.step(state.global_step, self.loss, self.clock.tokens_per_second)
