"""The tables of PLAN.md, from the plan: methods, claims with what decides them, the order of the runs."""

from loraweave.files import write_text
from study.page import REGIME_NAMES, between, decided_by, paper, table
from study.place import HERE
from study.plan import BUDGETS, CLAIMS, METHODS, UNMATCHED, Stage, expected_seconds, stages

PLAN = HERE / "PLAN.md"


def write_plan_tables() -> None:
    """Put the plan's tables between the marks of PLAN.md."""
    write_text(PLAN, with_tables(PLAN.read_text(encoding="utf-8")))


def with_tables(text: str) -> str:
    """PLAN.md with its tables as the plan has them now."""
    for name, made in {"methods": _methods(), "claims": _planned_claims(), "order": _order()}.items():
        text = between(text, name, made)
    return text


def _methods() -> str:
    rows = []
    for name, spec in METHODS.items():
        fields = ", ".join(f"{key} {value}" for key, value in spec.items() if key not in ("name", "label"))
        rows.append(
            [
                f"`{name}`",
                spec["name"],
                fields or "its defaults",
                "as given" if name in UNMATCHED else "as `lora` trains",
            ]
        )
    return table(["in tables", "method", "fields", "parameters"], rows)


def _planned_claims() -> str:
    rows = [
        [claim.text if test is claim.tests[0] else "", paper(claim), REGIME_NAMES[test.regime], decided_by(test)]
        for claim in CLAIMS
        for test in claim.tests
    ]
    return table(["claim", "paper", "tasks", "seen if"], rows)


def _order() -> str:
    budget = BUDGETS["small"]
    grouped: list[tuple[Stage, list[int], float]] = []
    searched: set[str] = set()
    begun: set[str] = set()
    for stage in stages(budget):
        first = stage.regime not in begun  # the untouched base is scored too
        seconds = expected_seconds(stage, budget, searched, first=first)
        searched |= {*stage.methods}
        begun.add(stage.regime)
        last = grouped[-1] if grouped else None
        if last is not None and (last[0].regime, last[0].methods, last[0].why) == (
            stage.regime,
            stage.methods,
            stage.why,
        ):
            grouped[-1] = (last[0], [*last[1], stage.seed], last[2] + seconds)
        else:
            grouped.append((stage, [stage.seed], seconds))
    rows, total = [], 0.0
    for stage, seeds, seconds in grouped:
        total += seconds
        methods = ", ".join(f"`{method}`" for method in stage.methods)
        listed = ", ".join(map(str, seeds))
        rows.append(
            [REGIME_NAMES[stage.regime], methods, listed, stage.why, f"{seconds / 60:.0f}", f"{total / 60:.0f}"]
        )
    return table(["tasks", "methods", "seeds", "why here", "minutes", "in all"], rows)
