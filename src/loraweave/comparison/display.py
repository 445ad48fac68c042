"""One bar per run: training with step, loss, tokens/s and time left, then evaluation."""

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from loraweave.heartbeat import Heartbeat

MOST_IN_SIGHT = 16
NEXT_IN_SIGHT = 3


class _TimeLeft(TimeRemainingColumn):
    """Only of what is under way: a run that waits or is done has none."""

    def render(self, task: Task) -> Text:
        if task.finished or task.completed == 0:
            return Text("")
        return super().render(task) + Text(" left", style="progress.remaining")


class ComparisonProgress:
    """The display of a whole comparison; `run(name)` gives the part that one run reports to.

    On a terminal it is live, and up to `MOST_IN_SIGHT` runs are all in sight. Of more than that, those that are over
    leave a line each, and the bars are of the one under way, of the next few, and of all of them together. Where there
    is no terminal (a log file), each run prints a line at its start and end and ten in between,
    and one says where things are whenever that takes long.
    """

    def __init__(self, names: Sequence[str], console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self.bars = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True), markup=False),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True), markup=False),
            _TimeLeft(),
            console=console,
            disable=not self.live,
            expand=True,
        )
        self.waiting: list[str] = []
        self.lines: dict[str, TaskID] = {}
        self.heart = Heartbeat(self._print)
        self.all: TaskID | None = None
        for name in names:
            self._add(name)
        if self.live and len(names) > MOST_IN_SIGHT:
            self.all = self.bars.add_task("all runs", total=len(names), note="")
        self._show_next()

    def __enter__(self) -> "ComparisonProgress":
        self.bars.start()
        if not self.live:
            self.heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heart.stop()
        self.bars.stop()

    def run(self, name: str) -> "OneRun":
        if name not in self.lines:  # a run that nobody could know of when the display was made
            self._add(name)
        self.waiting.remove(name)
        self.bars.update(self.lines[name], visible=True)
        self._show_next()
        return OneRun(self, name, self.lines[name])

    def over(self, name: str) -> None:
        """A run has ended: where there are many, its bar makes room."""
        if self.all is not None:
            self.bars.update(self.lines[name], visible=False)
            self.bars.advance(self.all)

    def say(self, name: str, what: str) -> None:
        """A line of a run's own."""
        self._print(f"{name}: {what}")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _add(self, name: str) -> None:
        self.waiting.append(name)
        self.lines[name] = self.bars.add_task(name, total=1, note="waiting")
        if self.all is not None:
            self.bars.update(self.all, total=len(self.lines))

    def _show_next(self) -> None:
        if self.all is not None:
            for place, name in enumerate(self.waiting):
                self.bars.update(self.lines[name], visible=place < NEXT_IN_SIGHT)


class OneRun:
    """What one run reports: it is a `loraweave.training.progress.RunProgress`, and hears of the evaluation too."""

    def __init__(self, display: ComparisonProgress, name: str, line: TaskID) -> None:
        self.display = display
        self.name = name
        self.line = line
        self.total = 0
        self.evaluating = ""

    def start(self, name: str, total: int) -> None:
        """Training of `total` steps begins. The name given when the display was made stays."""
        self.total = total
        self.display.bars.reset(self.line, total=total, note="starting")
        self.display.heart.tell(f"{self.name}: starting")

    def step(self, step: int, loss: float | None, tokens_per_second: float) -> None:
        """`step` steps are done; the loss is per completion token, as last logged."""
        shown = "loss –" if loss is None else f"loss {loss:.3f}"
        note = f"{shown}  {tokens_per_second:,.0f} tokens/s"
        self.display.bars.update(self.line, completed=step, note=note)
        self.display.heart.tell(f"{self.name}: step {step}/{self.total}, {note.replace('  ', ', ')}")
        if not self.display.live and (step == self.total or step % max(1, self.total // 10) == 0):
            self.display.say(self.name, f"step {step}/{self.total}, {note.replace('  ', ', ')}")

    def stop(self) -> None:
        """Training is over; the bar stays for the evaluation."""

    def evaluated(self, task: str, done: int, of: int) -> None:
        """`done` of the `of` requests of `task` are answered."""
        if task != self.evaluating:
            self.evaluating = task
            self.display.bars.reset(self.line, total=of, note=f"evaluating {task}")
        self.display.bars.update(self.line, total=of, completed=done)
        self.display.heart.tell(f"{self.name}: evaluating {task}, {done:,} of {of:,} requests")

    def finish(self, note: str) -> None:
        """The run is over; `note` is what remains of it on the screen."""
        total = self.total or 1
        self.display.heart.tell("")
        self.display.bars.update(self.line, total=total, completed=total, note=note)
        self.display.over(self.name)
        if self.display.all is not None or not self.display.live:
            self.display.say(self.name, note)

    def fail(self, reason: str) -> None:
        """The run ended with an error."""
        self.display.bars.update(self.line, note="failed")
        self.display.heart.tell("")
        self.display.over(self.name)
        self.display.console.print(f"{self.name} failed: {reason}", style="red", markup=False, highlight=False)
