"""Where prompts go at every threshold: those of the library's own tasks, and those of strangers.

A stranger is a task that the library has no expert for. Each task is one in turn: its expert is left out, and its
held-out prompts are asked of the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loraweave.experts.manifest import Expert
from loraweave.experts.routing import Embedding, Route, Router
from loraweave.tasks.examples import Prompt

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(15))
"""0 to 0.7."""


@dataclass(frozen=True)
class Line:
    """What comes of one threshold; all but the first are percent, a mean in which every task counts alike.

    Attributes:
        right, wrong, base: own prompts that go to their own expert, to another one, to the base.
        strangers: prompts of tasks without an expert that go to one.
        balanced: the mean of `right` and of the strangers that are not let in.
    """

    threshold: float
    right: float
    wrong: float
    base: float
    strangers: float
    balanced: float


def expert(name: str, description: str = "", examples: Sequence[str] = ()) -> Expert:
    """An expert of which nothing but words is there."""
    return Expert(name, Path(name), description, tuple(examples), (), 1, 1, "", "", None, {})


Routes = Mapping[str, Sequence[Route]]
"""Of each task, where its prompts went."""


@dataclass(frozen=True)
class Asked:
    """Where prompts went, whatever the threshold.

    Attributes:
        own: asked of the whole library.
        strange: asked of the library without the task's own expert.
    """

    own: Routes
    strange: Routes

    @classmethod
    def of(cls, experts: Sequence[Expert], prompts: Mapping[str, Sequence[Prompt]], embed: Embedding) -> "Asked":
        """Ask the held-out `prompts`, by the name of each expert's task; `embed`: texts to vectors."""
        whole = Router(experts, embed)
        own = {each.name: whole.route_all(prompts[each.name]) for each in experts}
        strange = {}
        for each in experts:
            others = Router([other for other in experts if other is not each], embed)
            strange[each.name] = others.route_all(prompts[each.name])
        return cls(own, strange)

    def by_task(self, threshold: float) -> dict[str, dict[str, float]]:
        """Of each task, the percents that `Line` has means of."""
        found = {}
        for name, routes in self.own.items():
            went = [_goes(route, threshold) for route in routes]
            let_in = [_goes(route, threshold) is not None for route in self.strange[name]]
            right, base = [to == name for to in went], [to is None for to in went]
            wrong = [not (r or b) for r, b in zip(right, base, strict=True)]
            shares = {"right": right, "wrong": wrong, "base": base, "strangers": let_in}
            found[name] = {share: round(100 * float(np.mean(each)), 2) for share, each in shares.items()}
        return found

    def line(self, threshold: float) -> Line:
        """What comes of one threshold."""
        tasks = self.by_task(threshold).values()
        mean = {share: round(float(np.mean([task[share] for task in tasks])), 2) for share in next(iter(tasks))}
        return Line(threshold, **mean, balanced=round((mean["right"] + 100 - mean["strangers"]) / 2, 2))


def best(lines: Sequence[Line]) -> float:
    """The threshold with the highest balanced accuracy; the lowest of several."""
    return max(lines, key=lambda line: (line.balanced, -line.threshold)).threshold


def _goes(route: Route, threshold: float) -> str | None:
    """Whom a route found at some threshold leads to at another one."""
    return route.nearest if route.score is not None and route.score >= threshold else None


class Remembered:
    """An embedding that embeds no text twice."""

    def __init__(self, embed: Embedding) -> None:
        self._embed = embed
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(zip(new, np.asarray(self._embed(new)), strict=True))
        return np.array([self._known[text] for text in texts])
