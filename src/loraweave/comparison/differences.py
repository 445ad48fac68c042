"""Every method against one of them, paired by seed and by example: by how much, and what can be told apart."""

from loraweave.comparison.evidence import MEAN, Evidence
from loraweave.comparison.records import BASE, Against, Difference, Results
from loraweave.errors import UserError, nearest
from loraweave.evaluation.paired import LEVEL, verdict
from loraweave.runs.methods import choose_method


def reference(results: Results, wanted: str | None = None) -> str:
    """The method that the others are held against: `wanted`, else LoRA, else the first adapter, else the first.

    Raises:
        UserError: `wanted` is not in the comparison.
    """
    specs = {name: spec for name, spec in results["settings"]["methods"].items() if name != BASE}
    if wanted is not None:
        if wanted not in specs:
            known = ", ".join(specs)
            raise UserError(f"--against {wanted!r} is not compared{nearest(wanted, specs)} (compared: {known})")
        return wanted
    adapters = [name for name, spec in specs.items() if choose_method(spec).method.trains == "adapter"]
    return "lora" if "lora" in specs else next(iter(adapters or specs))


def against(evidence: Evidence, other: str) -> list[Against]:
    """Every method that has a finished run, the base too, against `other`; in the order of the table."""
    if other not in evidence.runs:
        return []
    return [_one_against(evidence, method, other) for method in evidence.runs if method != other]


def _one_against(evidence: Evidence, method: str, other: str) -> Against:
    pair = frozenset({method, other})
    missing = evidence.why_not(method, other, MEAN)
    mean = None if missing else _difference(evidence, method, other, MEAN)
    tasks = {
        task: _difference(evidence, method, other, task)
        for task in evidence.results["tasks"]
        if evidence.why_not(method, other, task) is None
    }
    p = evidence.corrected.get((pair, MEAN))
    beside = {
        task: tasks[task]["verdict"] if evidence.corrected.get((pair, task), 1.0) < LEVEL else "tie"
        for task in evidence.rule.left_out
        if task in tasks
    }
    return Against(
        method=method,
        seeds=evidence.shared(method, other),
        mean=mean,
        tasks=tasks,
        beside=beside,
        p=p,
        apart=p is not None and p < LEVEL and mean is not None and mean["verdict"] != "tie",
        missing=missing,
    )


def _difference(evidence: Evidence, method: str, other: str, task: str) -> Difference:
    found = evidence.difference(method, other, task)
    told = verdict(found, evidence.higher_is_better(task))
    return Difference(mean=found.mean, interval=found.interval, verdict=told, p=found.p)
