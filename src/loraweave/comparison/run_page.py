"""One run's evaluation as an HTML page that needs no network: beside its base, what it confuses, what it said."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from loraweave.amounts import listed
from loraweave.comparison import words
from loraweave.comparison.records import Spread
from loraweave.evaluation import interval
from loraweave.evaluation.beside import Beside
from loraweave.evaluation.mean import mean_of, mean_rule
from loraweave.evaluation.paired import PairedDifference, verdict
from loraweave.evaluation.repeats import about_repeats
from loraweave.evaluation.samples import Sample, about_one_answer, classes, with_base
from loraweave.evaluation.scores import NATS, PERCENT, TaskScore, about_cut
from loraweave.evaluation.subject import Subject
from loraweave.files import write_text
from loraweave.pages import render

MOST_SHOWN = 10
"""Examples of a kind, right or wrong, of each task; samples.jsonl has all."""
LONGEST = 1200
"""Characters of a prompt: of a longer one the end is shown, which asks."""
WIDEST = 20
"""Classes of a confusion matrix; the others stand together."""
OTHERS = "(others)"


def write_run_page(path: Path, subject: Subject, found: Beside, notes: Sequence[str], command: str) -> None:
    """Write the page of an evaluation to `path`.

    Args:
        path: of the page.
        subject: that was evaluated.
        found: its scores and samples, with the base's where it was asked.
        notes: what else is to be said.
        command: what was typed.
    """
    content = {
        "title": f"{subject.method} on {len(found.scores)} task{'s' * (len(found.scores) != 1)}",
        "subtitle": f"Base model {Path(subject.base).name}, {subject.folder.resolve().name}, "
        f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "has_base": bool(found.base),
        "has_majority": bool(found.majority),
        "rows": [*rows(found)],
        "untrained": [] if found.forgetting is None else untrained_rows(found.forgetting),
        "notes": [*about(found), *notes],
        "tasks": [_task(name, found) for name in found.scores if name in found.samples],
        "command": command,
    }
    write_text(path, render("loraweave.comparison", "run_page.html", content))


def rows(found: Beside) -> list[dict[str, str]]:
    """A row for each task, and one for their mean: score and interval, the base's, the difference, the majority's."""
    made = []
    differences, shares = found.differences, found.majority
    for name, score in found.scores.items():
        base = found.base.get(name)
        made.append(
            {
                "task": name,
                "metric": words.metric(score),
                "n": f"{score['n']:,}",
                "score": _number(score["score"], score["unit"]),
                "interval": _interval(score),
                "base": "" if base is None else _number(base["score"], base["unit"]),
                "majority": _number(shares[name], PERCENT) if name in shares else "",
                "total": "",
                **_difference(differences.get(name), score),
            }
        )
    rule = mean_rule(found.scores)
    mean, base_mean = mean_of(found.scores, rule), mean_of(found.base, rule)
    if mean is not None and len(found.scores) > 1:
        made.append(
            {
                "task": "mean",
                "metric": words.mean_unit(found.scores),
                "n": "",
                "score": _number(mean, rule.unit),
                "interval": "",
                "base": "" if base_mean is None else _number(base_mean, rule.unit),
                "majority": "",
                "total": "total",
                **_difference(found.mean_difference, {"unit": rule.unit, "higher_is_better": rule.higher_is_better}),
            }
        )
    return made


def untrained_rows(found: Beside) -> list[dict[str, str]]:
    """A row for each thing that the run was not trained for, without their mean."""
    return [row for row in rows(found) if not row["total"]]


def about(found: Beside) -> list[str]:
    """What the columns are, and which tasks the mean leaves out."""
    said = []
    if found.base:
        said.append(
            "Difference: score minus that of the untouched base on the same examples, with its 95 % interval for other "
            "examples of the same kind; an arrow where that leaves zero out and chance alone rarely makes as much "
            "(p below 0.05)."
        )
    if found.majority:
        said.append("Majority: how often the most frequent answer is right; whoever knows nothing else gets as much.")
    if found.forgetting is not None:
        said.append(f"{listed(found.forgetting.scores)}: not trained for; beside the base it tells what was forgotten.")
    untrained = {} if found.forgetting is None else found.forgetting.scores
    said += [*about_cut({**found.scores, **untrained}), *about_one_answer(found.samples), *about_repeats(found.scores)]
    rule = mean_rule(found.scores)
    if rule.counted:
        said += [f"Not in the mean: {name}: {reason}." for name, reason in rule.left_out.items()]
    return said


def _number(value: float, unit: str) -> str:
    return words.score(Spread(mean=value, interval=None), unit)[0]


def _interval(score: TaskScore) -> str:
    ends = [_number(end, score["unit"]) for end in interval(score) or ()]
    return " to ".join(ends)


def _difference(found: PairedDifference | None, score: Mapping[str, Any]) -> dict[str, str]:
    if found is None:
        return {"difference": "", "off": "", "verdict": "tie"}
    text, off = words.signed(Spread(mean=found.mean, interval=found.interval), score["unit"])
    return {"difference": text, "off": off, "verdict": verdict(found, score["higher_is_better"])}


def _task(name: str, found: Beside) -> dict[str, Any]:
    score, samples = found.scores[name], found.samples[name]
    lines = with_base(samples, found.base_samples.get(name, ()))
    for line in lines:
        line["prompt"] = line["prompt"] if len(line["prompt"]) <= LONGEST else f"… {line['prompt'][-LONGEST:]}"
        line["score"] = None if line["outcome"] is None else _number(line["outcome"], score["unit"])
    known = [line for line in lines if line["outcome"] is not None]
    better = score["higher_is_better"]
    ranked = sorted(known, key=lambda line: -line["outcome"] if better else line["outcome"])
    if score["unit"] == PERCENT:
        right = [line for line in known if line["outcome"] >= 100]
        wrong = [line for line in known if line["outcome"] < 100]
        heads = "Right", "Wrong"
    else:
        middle = (len(ranked) + 1) // 2
        right, wrong = ranked[:middle], ranked[middle:][::-1]
        heads = ("Lowest loss", "Highest loss") if score["unit"] == NATS else ("Best", "Worst")
    return {
        "name": name,
        "metric": words.metric(score),
        "confusion": confusion(samples),
        "lists": [
            {"head": head, "count": len(listed), "lines": listed[:MOST_SHOWN]}
            for head, listed in zip(heads, (right, wrong), strict=True)
            if listed
        ],
    }


def confusion(samples: Sequence[Sample]) -> dict[str, Any] | None:
    """How often each right answer was taken for which; None where a task's answers are no classes.

    Classes beyond the first `WIDEST`, and answers that are no class, stand together as `OTHERS`, whatever a class is
    called. What is said for one of them is not known to be right, and not shown as if it were.
    """
    known = classes(samples)
    if not known:
        return None
    names = known[:WIDEST]

    def place(answer: str | None) -> str | None:
        answer = (answer or "").strip()
        return answer if answer in names else None

    counts = Counter((place(sample["target"]), place(sample["prediction"])) for sample in samples)
    heads = [*names, *([None] if any(None in pair for pair in counts) else [])]
    table = []
    for target in heads:
        of = sum(counts[target, said] for said in heads)
        cells = [
            {
                "count": counts[target, said],
                "strength": round(counts[target, said] / of, 2) if of else 0,
                "right": target is not None and target == said,
            }
            for said in heads
        ]
        if of:
            table.append({"target": OTHERS if target is None else target, "of": of, "cells": cells})
    return {"heads": [OTHERS if name is None else name for name in heads], "rows": table}
