"""docs/study.md from the records: claims one by one, scores, what the updates are like."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from loraweave.comparison.evidence import Evidence
from loraweave.comparison.records import BASE
from loraweave.comparison.summary import in_order, summarise
from loraweave.evaluation.paired import PairedDifference
from loraweave.files import write_text
from study.place import PAGE, Place
from study.plan import CLAIMS, MARGIN, REGIMES, Claim, Test, stages
from study.runs import TAKEN_FROM, outstanding
from study.verdicts import Finding, Geometry, evidence_of, judge

REGIME_NAMES = {"shared": "tasks that share their texts", "apart": "tasks apart"}
UNITS = {
    None: ("points of the mean over tasks", 1),
    "effective_rank": ("effective rank of the update", 2),
    "overlap_with_full": ("overlap with full fine-tuning", 3),
    "head_similarity": ("mean cosine of two heads", 3),
    "learned_similarity": ("mean cosine of what two heads learned", 3),
    "forgetting": ("loss on plain text", 3),
}
REFERENCE = "lora"
KINDS = {
    "more": "{left} − {right} above 0",
    "no worse": "{left} − {right} above −{margin:g}",
    "no gain": "{left} − {right} below {margin:g}",
}

INTRODUCTION = """\
# Do the papers' claims hold on a pretrained model?

What multi-task LoRA papers say of their methods, one claim at a time, on SmolLM2-135M-Instruct, a pretrained chat
model of 135 million parameters, at equal trainable parameters and with learning rates chosen on validation data. A
claim is **seen here**, **not seen**, or it **cannot be told at this size**; [the plan](../benchmarks/study/PLAN.md)
was committed before the first run and says which comparison decides what, and by which rule. A result against a paper
is a result for this size, these tasks and this length of training, and no more.

This page is made from the records by `cd benchmarks && python -m study --page`; `python -m study` makes the runs, or
goes on with them.
"""
REPORT = """\
[A report](../benchmarks/study/analysis/report.html) by `loraweave analyze` has spectra, heads and tasks layer by
layer, for adapters of one seed of tasks apart (`cd benchmarks && python -m study --report`, where the adapters are).
"""
ABOUT_CLAIMS = """
Intervals speak of other seeds and other examples of the same tasks; p is corrected for all tests of the table (Holm).
One seed decides nothing.
"""


def write_page(place: Place) -> None:
    """Write docs/study.md."""
    write_text(PAGE, page(place))


def page(place: Place) -> str:
    """docs/study.md, in Markdown."""
    evidence = evidence_of(place)
    findings = judge(place, evidence)
    parts = [INTRODUCTION, "## The claims\n", _claims(findings, place), "## What was run\n", _progress(place)]
    for regime, found in evidence.items():
        parts += [f"## Scores: {REGIME_NAMES[regime]}\n", _scores(found)]
        parts += [f"## Loss on validation rows: {REGIME_NAMES[regime]}\n", _losses(found.results)]
    if searches := _searches(place):
        parts += ["## Learning rates\n", searches]
    measured = {regime: found for regime in REGIMES if (found := place.measured(regime))}
    if measured:
        parts += ["## What the updates are like\n", _geometry(measured)]
    if (place.report / "report.html").is_file():
        parts += [REPORT]
    return "\n".join(parts).rstrip("\n") + "\n"


def _claims(findings: Mapping[Test, Finding], place: Place) -> str:
    rows = [
        [claim.text if test is claim.tests[0] else "", paper(claim), *_row(findings[test], len(place.budget.seeds))]
        for claim in CLAIMS
        for test in claim.tests
    ]
    head = [
        "claim",
        "paper",
        "tasks",
        "decided by",
        "left and right",
        "difference, 95 % interval",
        "p",
        "seeds",
        "verdict",
    ]
    return table(head, rows) + ABOUT_CLAIMS


def _row(found: Finding, planned: int) -> list[str]:
    test, digits = found.test, UNITS[found.test.measure][1]
    start = [REGIME_NAMES[test.regime], decided_by(test)]
    if found.difference is None or found.left is None or found.right is None:
        return [*start, "–", "–", "–", "0", f"**{found.verdict}**"]
    difference = in_words(found.difference, digits)
    p = "–" if found.p is None or found.difference.p is None else "below 0.001" if found.p < 0.001 else f"{found.p:.3f}"
    so_far = f" (so far: {len(found.seeds)} of {planned} seeds)" if len(found.seeds) < planned else ""
    values = f"{found.left:.{digits}f}, {found.right:.{digits}f}"
    return [*start, values, difference, p, str(len(found.seeds)), f"**{found.verdict}**{so_far}"]


def decided_by(test: Test) -> str:
    """The rule of one test in a few words, such as "rlora − hydralora above 0"."""
    rule = KINDS[test.kind].format(left=f"`{test.left}`", right=f"`{test.right}`", margin=MARGIN)
    if test.lower:
        rule = rule.replace("above 0", "below 0")
    return rule if test.measure is None else f"{rule}: {UNITS[test.measure][0]}"


def paper(claim: Claim) -> str:
    """A link to the claim's paper."""
    return f"[{claim.paper}](https://arxiv.org/abs/{claim.paper})"


def _progress(place: Place) -> str:
    left: dict[str, set[str]] = {}
    planned = made = 0
    for stage in stages(place.budget):
        waiting = outstanding(place, stage)
        planned += len(stage.methods)
        made += len(stage.methods) - (len(waiting.methods) if waiting else 0)
        left.setdefault(stage.regime, set()).update(f"`{method}`" for method in (waiting.methods if waiting else ()))
    budget = place.budget
    text = (
        f"{made} of {planned} planned runs, each of {budget.steps} steps of {budget.batch} rows of 256 tokens, and "
        f"scored on {budget.limit} test examples per task. A method's learning rate is chosen on the\n"
        "tasks where it is run first, and taken over on the others.\n"
    )
    said = [f"{REGIME_NAMES[regime]}: {', '.join(sorted(methods))}" for regime, methods in left.items() if methods]
    if said:
        text += f"\nNot run, or not with every seed: {'; '.join(said)}. The same command goes on from there.\n"
    return text


def _scores(evidence: Evidence) -> str:
    results, rows = evidence.results, []
    tasks = [*results["tasks"]]
    for row in in_order(summarise(evidence), results["tasks"]):  # as is concluded now, not when a run was recorded
        if not row["finished"]:
            continue
        mean = row["mean"]
        cells = [f"{row['scores'][task]['mean']:.1f}" if task in row["scores"] else "–" for task in tasks]
        interval = "" if mean is None or mean["interval"] is None else f" ± {mean['interval']:.1f}"
        rate = _rate(results, row["method"])
        rows.append([
            f"`{row['method']}`", *cells, "–" if mean is None else f"{mean['mean']:.1f}{interval}",
            "–" if row["method"] == BASE else f"{row['trainable_parameters']:,}", rate,
            "–" if row["method"] == BASE else str(row["finished"]),
        ])  # fmt: skip
    return table(["method", *tasks, "mean", "trainable", "learning rate", "seeds"], rows)


def _losses(results: Mapping[str, Any]) -> str:
    tasks = [*results["tasks"]]
    runs: dict[str, dict[int, Any]] = {}
    for run in results["runs"]:
        if run["validation_loss"] is not None:
            runs.setdefault(run["method"], {})[run["seed"]] = run
    means = {method: fmean(run["validation_loss"] for run in seeds.values()) for method, seeds in runs.items()}
    rows = []
    for method in sorted(means, key=means.__getitem__):
        seeds = runs[method]
        each = [fmean(run["curves"]["validation"][task][-1][1] for run in seeds.values()) for task in tasks]
        both = sorted(seeds.keys() & runs.get(REFERENCE, {}).keys()) if method != REFERENCE else []
        apart = [seeds[seed]["validation_loss"] - runs[REFERENCE][seed]["validation_loss"] for seed in both]
        differences = ", ".join(_signed(one, 3) for one in apart) or "–"
        rows.append([
            f"`{method}`", *(f"{loss:.3f}" for loss in each), f"{means[method]:.3f}", differences, str(len(seeds)),
        ])  # fmt: skip
    head = ["method", *tasks, "mean", f"minus `{REFERENCE}`, seed by seed", "seeds"]
    return table(head, rows) + (
        "\nIn nats per answer token, lower is better. It tells more than scores where hardly any answer is\n"
        "exactly right; but the learning rate was chosen by it with the first seed, and no claim is decided by it.\n"
    )


def _searches(place: Place) -> str:
    """Each search where it was made: what every rate came to, as factors of the method's default."""
    found = [
        (regime, search)
        for regime in REGIMES
        for search in (place.results(regime) or {"searches": ()})["searches"]
        if search["chosen"] is not None and TAKEN_FROM not in search
    ]
    factors = sorted({_factor(trial, search) for _, search in found for trial in search["trials"]})
    rows = []
    for regime, search in found:
        losses = {_factor(trial, search): trial["validation_loss"] for trial in search["trials"]}
        rows.append([
            f"`{search['method']}`", REGIME_NAMES[regime], f"{search['own_rate']:.2g}",
            *(_loss(losses, factor) for factor in factors), f"{search['chosen']:.2g}",
        ])  # fmt: skip
    if not rows:
        return ""
    head = ["method", "chosen on", "default", *(f"{factor:g} ×" for factor in factors), "chosen"]
    return table(head, rows) + "\nValidation loss of whole trainings with the first seed, at factors of the default.\n"


def _factor(trial: Mapping[str, Any], search: Mapping[str, Any]) -> float:
    return float(f"{trial['learning_rate'] / search['own_rate']:.3g}")


def _loss(losses: Mapping[float, float | None], factor: float) -> str:
    if factor not in losses:
        return "–"
    return "failed" if (loss := losses[factor]) is None else f"{loss:.3f}"


def _rate(results: Mapping[str, Any], method: str) -> str:
    rates = {
        run["learning_rate"] for run in results["runs"] if run["method"] == method and run["learning_rate"] is not None
    }
    return ", ".join(f"{rate:.2g}" for rate in sorted(rates)) or "–"


def _geometry(measured: Geometry) -> str:
    measures = ["effective_rank", "top_share", "overlap_with_full", "head_similarity", "learned_similarity"]
    by_method: dict[tuple[str, str], list[Mapping[str, float | None]]] = {}
    for regime, each in measured.items():
        for (method, _), found in each.items():
            by_method.setdefault((regime, method), []).append(found)
    rows = []
    for (regime, method), seeds in sorted(by_method.items()):
        values = [[one[measure] for one in seeds if one[measure] is not None] for measure in measures]
        cells = [f"{fmean(known):.3g}" if (known := [v for v in some if v is not None]) else "–" for some in values]
        rows.append([REGIME_NAMES[regime], f"`{method}`", *cells, str(len(seeds))])
    head = ["tasks", "method", "effective rank", "share of the first direction", "overlap with full fine-tuning"]
    return table([*head, "cosine of heads", "cosine of what heads learned", "seeds"], rows) + (
        "\nMeans over layers and seeds; [analysis](analysis.md) says how each is measured.\n"
    )


def in_words(found: PairedDifference, digits: int) -> str:
    """A difference with its 95 % interval, where there is one: "+1.2 ± 0.4"."""
    interval = "" if found.interval is None else f" ± {found.interval:.{digits}f}"
    return _signed(found.mean, digits) + interval


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def between(text: str, name: str, made: str) -> str:
    """A text with something else between the marks of that name.

    Raises:
        ValueError: it has not one such pair of marks.
    """
    before, start, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not end:
        raise ValueError(f"no marks of {name!r}")
    return before + start + made + end + after


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
