"""How often requests come to the right expert: the router asked about the held-out prompts of tasks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from loraweave.errors import UserError
from loraweave.experts.manifest import BASE
from loraweave.experts.routing import Router
from loraweave.tasks import Task


@dataclass(frozen=True)
class TaskRouting:
    """Where the held-out prompts of one task went.

    Attributes:
        task: its name.
        right: who should answer: the expert of the task's name, or "base" where there is none.
        prompts: how many were asked.
        went: by expert, or "base", how many went there.
        by: by "rule", "prefix", "description" and "nothing", how many were routed so.
        margin: the mean of how much nearer the first description was than the second, a cosine; None where none was
            routed by description.
    """

    task: str
    right: str
    prompts: int
    went: dict[str, int]
    by: dict[str, int]
    margin: float | None

    @property
    def accuracy(self) -> float:
        """The share of prompts that went where they should, 0 to 1."""
        return self.went.get(self.right, 0) / self.prompts


def route_eval(router: Router, tasks: Sequence[Task], limit: int | None = None) -> list[TaskRouting]:
    """Ask the router about every held-out prompt of each task.

    Args:
        router: with the experts.
        tasks: those whose name no expert has should go to the base.
        limit: so many prompts of each task at most.

    Raises:
        UserError: a task without held-out prompts, or one of its rows is unfit.
    """
    found = []
    for task in tasks:
        prompts = [example.prompt for example in task.test_examples()][:limit]
        if not prompts:
            raise UserError(f"{task.origin}: the task {task.name!r} has no held-out prompts")
        routes = router.route_all(prompts)
        margins = [route.margin for route in routes if route.by == "description" and route.margin is not None]
        found.append(
            TaskRouting(
                task=task.name,
                right=task.name if task.name in router.experts else BASE,
                prompts=len(prompts),
                went=dict(Counter(route.expert or BASE for route in routes).most_common()),
                by=dict(Counter(route.by for route in routes).most_common()),
                margin=sum(margins) / len(margins) if margins else None,
            )
        )
    return found
