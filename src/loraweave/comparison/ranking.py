"""The rule by which a method is taken: which is best, which are as good within a margin, and the simplest of those."""

from loraweave.comparison import words
from loraweave.comparison.differences import against
from loraweave.comparison.evidence import Evidence
from loraweave.comparison.records import Against, Difference, MethodSummary
from loraweave.comparison.simplicity import Simplicity, simplicity

MARGINS = {"%": 1.0, "nats": 0.02}
"""How much worse than the best a simpler method may be and still be as good, in points, or in nats per token."""
MARGIN_SHARE = 0.02
"""The same for scores of any other unit: this part of the best mean."""
DIGITS = 9
"""Means that differ behind so many are the same: they were summed up in another order."""


def is_better(each: Against) -> bool:
    """Whether a method can be told from the other as the better one: by the mean or by a task that the mean leaves out,
    and as the worse one by neither."""
    mean = each["mean"]["verdict"] if each["mean"] is not None and each["apart"] else "tie"
    return "win" in (verdicts := [mean, *each["beside"].values()]) and "loss" not in verdicts


class Ranking:
    """The methods that have a mean, and what each is beside the best.

    Attributes:
        ranked: the methods by their mean, the best first; of equal ones the simplest first.
        best: the first of them.
        margin: how much worse a method may be and still be as good.
        worse: can be told from the best as worse, by the mean or by a task that the mean leaves out.
        equal: the best, and those whose 95 % interval shows that they are worse by less than the margin, if at all:
            methods shown not to be inferior.
        open: of which neither is known.
        taken: the simplest of `equal`, one without a failed run where there is one.
        seeds: of the method that has most of them.
    """

    def __init__(self, evidence: Evidence, rows: dict[str, MethodSummary]) -> None:
        self.evidence = evidence
        self.results = evidence.results
        self.rows = rows
        self.unit = evidence.rule.unit
        self.sign = 1 if evidence.rule.higher_is_better else -1
        self.simplicity = {method: simplicity(self.results["settings"]["methods"][method]) for method in rows}
        self.ranked = sorted(rows, key=self._place)
        self.best = self.ranked[0]
        wanted = self.results["settings"]["margin"]
        own = MARGINS.get(self.unit, MARGIN_SHARE * abs(self._mean(self.best)))
        self.margin: float = own if wanted is None else wanted
        self.to_best = {each["method"]: each for each in against(evidence, self.best)}
        others = [method for method in self.ranked if method != self.best]
        self.worse = [method for method in others if self._is_worse(method)]
        self.equal = [self.best, *(m for m in others if m not in self.worse and self._is_within_the_margin(m))]
        self.open = [method for method in others if method not in (*self.worse, *self.equal)]
        self.taken = min(self.equal, key=lambda method: (self.failed(method), self.simplicity[method]))
        self.seeds = max(row["finished"] for row in rows.values())

    @property
    def margin_in_words(self) -> str:
        """`"1 point"`, `"0.02 nats per token"`."""
        unit = words.points(self.unit)
        return f"{self.margin:g} {unit.removesuffix('s') if self.margin == 1 and unit == 'points' else unit}".strip()

    def failed(self, method: str) -> bool:
        """Whether a run of the method failed."""
        return self.rows[method]["failed"] > 0

    def off(self, method: str) -> Difference | None:
        """By how much a method is off the best; None where they cannot be compared."""
        return self.to_best[method]["mean"]

    def mean(self, row: MethodSummary) -> str:
        """A method's mean in words."""
        assert row["mean"] is not None
        return " ".join(filter(None, [words.score(row["mean"], self.unit)[0], self.unit]))

    def to_the_best(self, method: str) -> str:
        """By how much a method is off the best, in words."""
        difference = self.off(method)
        return "" if difference is None else words.difference(difference, self.unit)

    def at_worst(self, method: str) -> str:
        """How much worse than the best a method may be, in words."""
        difference = self.off(method)
        if difference is None or difference["interval"] is None:
            return "nothing tells how much worse it may be"
        most = difference["interval"] - self.sign * difference["mean"]
        shown = words.score({"mean": most, "interval": None}, self.unit)[0]
        return f"may be worse by up to {shown}, more than the margin of {self.margin_in_words}"

    def _place(self, method: str) -> tuple[float, Simplicity]:
        return -self.sign * round(self._mean(method), DIGITS), self.simplicity[method]

    def _mean(self, method: str) -> float:
        mean = self.rows[method]["mean"]
        return 0.0 if mean is None else mean["mean"]

    def _is_worse(self, method: str) -> bool:
        each = self.to_best[method]
        by_mean = each["apart"] and each["mean"] is not None and each["mean"]["verdict"] == "loss"
        return by_mean or "loss" in each["beside"].values()

    def _is_within_the_margin(self, method: str) -> bool:
        difference = self.off(method)
        if difference is None or difference["interval"] is None:
            return False
        return self.sign * difference["mean"] - difference["interval"] > -self.margin
