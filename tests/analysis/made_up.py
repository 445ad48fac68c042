"""An analysis as `analysis.json` holds it, made up, for tests of what is built from it."""

import math
import random
from collections.abc import Sequence
from typing import Any

MODULES = ("q_proj", "down_proj")
HEADS = 3
WITH_ROUTER = ("rlora", "mtllora")
WITHOUT_HEADS = ("lora", "rslora", "dora", "alignlora", "full")


def analysis(
    methods: Sequence[str] = ("lora", "multilora", "rlora"),
    tasks: Sequence[str] = ("reverse", "sort", "a_task_with_a_long_name"),
    layers: int = 2,
    modules: Sequence[str] = MODULES,
    name: str = "{}",
) -> dict[str, Any]:
    """One run per method, named after it by `name`; the same numbers at every call."""
    draw = random.Random(0)
    found: dict[str, Any] = {
        "format": 1,
        "created": "2026-01-02T03:04:05+00:00",
        "command": "loraweave analyze 'runs/<lora>'",
        "versions": {"torch": "2.13.0"},
        "runs": [],
        "notes": ["multilora: said in words & signs"],
    }
    sections = (
        "spectra spectrum_summary subspaces heads head_map gates routing routing_summary tokens gradients transfer"
    )
    found |= {section: [] for section in [*sections.split(), "training"]}
    for method in methods:
        _add_run(found, name.format(method), method, list(tasks), layers, modules, draw)
    names = [run["name"] for run in found["runs"]]
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            found["subspaces"] += [
                _pair(first, second, module, side, layers, draw) for module in modules for side in ("left", "right")
            ]
    if len(tasks) > 1:
        rows = [
            {"run": names[0], "trained_on": list(tasks), "losses": {task: draw.uniform(1, 2) for task in tasks}},
            {"run": "alone", "trained_on": [tasks[0]], "losses": {tasks[0]: 0.5}},
        ]
        found["transfer"].append({"method": methods[0], "base": "nano", "rows": rows})
    return found


def empty(methods: Sequence[str] = ("lora",)) -> dict[str, Any]:
    """Runs of which nothing is known."""
    full = analysis(methods)
    return full | {key: [] for key, value in full.items() if isinstance(value, list) and key not in ("runs", "notes")}


def _add_run(found, name, method, tasks, layers, modules, draw) -> None:
    found["runs"].append(
        {
            "name": name,
            "folder": f"runs/{method}",
            "method": method,
            "base": "nano",
            "tasks": tasks,
            "seed": 0,
            "rank": 8,
            "num_heads": None if method in WITHOUT_HEADS else HEADS,
            "trainable_parameters": 98_304,
            "learning_rate": 1e-3,
            "kind": "full" if method == "full" else "adapter",
        }
    )
    for module in modules:
        for depth in range(layers):
            where = {"run": name, "layer": f"model.layers.{depth}.x.{module}", "module": module, "depth": depth}
            _add_layer(found, where, method, tasks, draw)
        if method not in WITHOUT_HEADS:
            points = [
                {"layer": f"model.layers.{d}.x.{module}", "module": module, "head": h, "x": draw.gauss(0, 1), "y": h}
                for d in range(layers)
                for h in range(HEADS)
            ]
            found["head_map"].append({"run": name, "module": module, "points": points, "explained": [0.4, 0.2]})
    own = [entry for entry in found["spectra"] if entry["run"] == name]
    for module in (*modules, "all"):
        group = [entry for entry in own if module in (entry["module"], "all")]
        keys = ("entropy", "effective_rank", "top1", "top4", "top8")
        means = {key: sum(entry[key] for entry in group) / len(group) for key in keys}
        found["spectrum_summary"].append({"run": name, "module": module, "layers": len(group), **means})
    if method in WITH_ROUTER:
        usage = [[1 / HEADS] * HEADS for _ in tasks]
        found["routing_summary"].append({"run": name, "tasks": tasks, "usage": usage, "entropy": [1.0 for _ in tasks]})
        token = {"token": " a\n<b>", "weight": 0.5, "count": 7}
        found["tokens"] += [{"run": name, "head": head, "layer": None, "tokens": [token]} for head in range(HEADS)]
    for share, step in ((0, 0), (0.5, 10), (1, 20)):
        cosine = [[1.0 if i == j else -0.3 + 0.1 * (i + j) for j in range(len(tasks))] for i in range(len(tasks))]
        if len(tasks) > 2:
            cosine[0][2] = cosine[2][0] = None  # a gradient of zero
        entry = {"run": name, "step": step, "share": share, "tasks": tasks, "cosine": cosine}
        found["gradients"].append({**entry, "norms": [1.0] * len(tasks), "within": [0.9] * len(tasks)})
    steps = range(5, 21, 5)
    found["training"].append(
        {
            "run": name,
            "loss": {task: [[step, 3 / step] for step in steps] for task in tasks},
            "validation": {task: [[20, 0.2]] for task in tasks},
            "learning_rate": [[step, 1e-3] for step in steps],
            "tokens_per_second": [[step, 5000.0] for step in steps],
            "mixture": [
                {"task": task, "drawn": 80, "wanted": 0.5, "share_of_examples": 0.4, "share_of_tokens": 0.3}
                for task in tasks
            ],
        }
    )


def _add_layer(found, where, method, tasks, draw) -> None:
    values = [3 * 0.6**index for index in range(8)]
    shares = [value**2 / sum(other**2 for other in values) for value in values]
    entropy = -sum(share * math.log(share) for share in shares)
    found["spectra"].append(
        {
            **where,
            "task": None,
            "directions": len(values),
            "singular_values": values,
            "entropy": entropy,
            "effective_rank": math.exp(entropy),
            **{f"top{k}": sum(shares[:k]) for k in (1, 4, 8)},
            "norm": 1.0,
        }
    )
    if method not in WITHOUT_HEADS:
        similarity = [[1.0 if i == j else 0.25 for j in range(HEADS)] for i in range(HEADS)]
        heads = {"similarity": similarity, "mean_similarity": 0.25, "norms": [draw.uniform(1, 2) for _ in range(HEADS)]}
        since = heads | {"mean_similarity": 0.75} if method == "rlora" else None
        found["heads"].append({**where, "matrix": "B", **heads, "since_start": since})
        if method == "multilora":
            found["heads"].append({**where, "matrix": "A", **heads, "since_start": None})
            found["gates"].append({**where, "norms": [0.5] * HEADS})
    if method in WITH_ROUTER:
        usage = {task: [1 / HEADS] * HEADS for task in tasks}
        found["routing"].append({**where, "entropy": dict.fromkeys(tasks, 1.0), "usage": usage})


def _pair(first, second, module, side, layers, draw) -> dict[str, Any]:
    ranks = [1, 2, 4, 8]
    by_layer = [
        {"layer": f"model.layers.{depth}.x.{module}", "rank": 8, "overlap": draw.uniform(0.2, 0.4), "random": 0.03}
        for depth in range(layers)
    ]
    return {
        "runs": [first, second],
        "module": module,
        "side": side,
        "ranks": ranks,
        "grid": [[draw.uniform(0, 0.5) for _ in ranks] for _ in ranks],
        "random": [[max(i, j) / 256 for j in ranks] for i in ranks],
        "by_layer": by_layer,
    }
