"""What one export comes to: one update for all tasks or one for each, heads as trained or with fixed weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loraweave.errors import UserError, nearest
from loraweave.export.source import Source
from loraweave.paths import folder_names

Heads = Literal["as trained", "averaged", "uniform"]


@dataclass(frozen=True)
class Variant:
    """One thing to be written.

    Attributes:
        task: whose; None for one that is for all tasks.
        heads: how the heads are weighed: as in training; or, in a router's place, by their mean weights on the task's
            data, or all alike.
        folder: its name below the output; empty for the output itself.
    """

    task: str | None
    heads: Heads
    folder: str = ""


def choose_variants(source: Source, tasks: Sequence[str], uniform: bool) -> list[Variant]:
    """What to write.

    Args:
        source: what is exported.
        tasks: for which tasks; all of them where the update depends on the task and none is named.
        uniform: let all heads weigh alike where a router weighs them.

    Raises:
        UserError: an unknown task; tasks or weights asked for where there is no choice, or not where there must be one.
    """
    told_apart, routed, method = source.adapter.tasks, source.routed, source.method
    if uniform and not routed:
        raise UserError(f"--uniform is for heads that are weighed by the input; {method} weighs none so")
    known = told_apart or (source.task_names if routed else [])
    if tasks and not known:
        raise UserError(f"--task {tasks[0]}: a {method} adapter is the same for all tasks, so there is none to choose")
    for name in tasks:
        if name not in known:
            raise UserError(f"--task {name}: no such task{nearest(name, known)} (there are {', '.join(known)})")
    if routed and not uniform and not tasks:
        raise UserError(
            f"{method} weighs its heads by the input, so no fixed change of the weights does the same: "
            f"--task NAME takes their mean weights over that task's data ({', '.join(known) or 'no tasks are known'}), "
            "--uniform lets all weigh alike; what that costs is measured and printed"
        )
    heads: Heads = "as trained" if not routed else "uniform" if uniform else "averaged"
    if uniform and tasks and not told_apart:
        raise UserError("--uniform is the same for all tasks: give --task or --uniform, not both")
    if not told_apart and heads != "averaged":
        return [Variant(None, heads)]
    chosen = list(dict.fromkeys(tasks or told_apart))
    return [Variant(task, heads, name) for task, name in zip(chosen, folder_names(chosen), strict=True)]
