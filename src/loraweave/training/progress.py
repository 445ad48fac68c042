"""Live progress: one bar per run, with step, loss, tokens per second and time left."""

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from loraweave.heartbeat import Heartbeat
from loraweave.terminal import plain_console


class RunProgress(Protocol):
    """What a run reports while it trains."""

    def start(self, name: str, total: int) -> None:
        """A run of `total` optimizer steps begins."""

    def step(self, step: int, loss: float | None, tokens_per_second: float) -> None:
        """Steps done so far; the loss per completion token as last logged; training speed since the start."""

    def stop(self) -> None:
        """The run is over, whether it came to its end or not."""


class ProgressBar:
    """A Rich progress bar on a terminal; where there is none, ten plain lines, and more where steps are slow.

    Args:
        console: where to draw.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or plain_console(stderr=True)
        self._bar: Progress | None = None
        self._heart = Heartbeat(self._print)
        self._task = TaskID(0)
        self._total = 0
        self._name = ""

    def start(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        if not self.console.is_terminal:
            self._heart.tell(f"{name}: starting")
            return self._heart.start()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} tokens/s"),
            TimeRemainingColumn(compact=True),
            console=self.console,
        )
        self._task = self._bar.add_task(name, total=total, loss="–", speed="–")
        self._bar.start()

    def step(self, step: int, loss: float | None, tokens_per_second: float) -> None:
        shown = "–" if loss is None else f"{loss:.3f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, loss=shown, speed=f"{tokens_per_second:,.0f}")
            return
        line = f"{self._name}: step {step}/{self._total}, loss {shown}, {tokens_per_second:,.0f} tokens/s"
        self._heart.tell(line)
        if step == self._total or step % max(1, self._total // 10) == 0:
            self._print(line)

    def stop(self) -> None:
        self._heart.stop()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
