"""How far long work has come: bars on a terminal, a line now and then elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loraweave.cli.output import errors
from loraweave.heartbeat import Heartbeat


@contextmanager
def progress(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Gives `show(name, done, of)`, which has a bar for each name.

    Args:
        what: is done before the first of them, for where no bar is seen.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    if not errors.is_terminal:
        with Heartbeat(lambda line: errors.print(line, soft_wrap=True)) as heart:
            heart.tell(what)
            yield lambda name, done, of: heart.tell(f"{name}, {done:,} of {of:,} requests")
        return
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    lines: dict[str, TaskID] = {}
    with Progress(*columns, console=errors, transient=True) as bars:

        def show(name: str, done: int, of: int) -> None:
            if name not in lines:
                lines[name] = bars.add_task(name, total=of)
            bars.update(lines[name], completed=done, total=of)

        yield show
