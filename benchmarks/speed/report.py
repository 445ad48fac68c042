"""From `results/speed/*.json` to the tables and figures of `docs/performance.md`: `python -m speed.report`."""

import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .figures import draw
from .layers import ON_HEADS, ON_X

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "speed"
PAGE = ROOT / "docs" / "performance.md"
FIGURES = ROOT / "docs" / "figures"
METHODS = (*ON_HEADS, *ON_X)


def same_dropout(rows: list[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Per method and dropout, its step over that of LoRA with the same dropout, a number per shape."""
    table: dict[str, list[float]] = {}
    for method in METHODS:
        for p in ("0", "0.05", "0.2") if method in ON_HEADS else ("0", "0.05"):
            table[f"{method}@{p}"] = [row[f"to_lora@{p}"][f"{method}@{p}"]["ratio"] for row in rows]
    return table


def targets(results: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """What was to be reached, the bound, what was reached, and whether that is enough."""
    rows: list[tuple[str, str, str, bool]] = []

    def add(what: str, bound: float, reached: float, where: str = "") -> None:
        text = f"{reached:.2f}" + (f" ({where})" if where else "")
        rows.append((what, f"{bound:.2f}", text, reached <= bound + 0.005))

    if layers := results.get("layers"):
        table = same_dropout(layers["results"])
        shapes = [row["shape"] for row in layers["results"]]
        for dropout_on, without in ((True, ""), (False, ", without any dropout")):
            some = {name: values for name, values in table.items() if name.endswith("@0") != dropout_on}
            median = {name: statistics.median(values) for name, values in some.items()}
            worst = max(median, key=lambda name: median[name])
            what = f"any method's step against LoRA's, same total rank and dropout{without}"
            add(f"{what}: the worst method's median over shapes", 0.95, median[worst], worst)
            each = [
                (v, f"{name}, {shape}")
                for name, values in some.items()
                for v, shape in zip(values, shapes, strict=True)
            ]
            add(f"{what}: the worst shape", 1.00, *max(each))
        for method in ON_HEADS:
            values = [row["to_lora@0.05"][f"{method}@0.2"]["ratio"] for row in layers["results"]]
            add(f"{method} with head dropout against LoRA with dropout 0.05, median", 0.80, statistics.median(values))
        memory = [
            (row["peak_bytes"][f"{method}@{p}"] / row["peak_bytes"][f"lora@{p}"], f"{method}@{p}, {row['shape']}")
            for row in layers["results"]
            for method in METHODS
            for p in (("0.05", "0.2") if method in ON_HEADS else ("0.05",))
        ]
        add("peak memory of a step against LoRA's, the worst", 1.02, *max(memory))
    if loops := results.get("loops"):
        for name in (key for key in loops["results"][0] if key != "shape"):
            values = [row[name]["ratio"] for row in loops["results"]]
            add(f"{name.partition('@')[0]} against its loop over 8 heads, median", 0.45, statistics.median(values))
    if growth := results.get("growth"):
        heads = [(row["32"]["ratio"], row["method"]) for row in growth["results"]["heads"]]
        add("32 heads against 1, same total rank, the worst method", 1.05, *max(heads))
        for row in growth["results"]["tasks"]:
            add(f"1,024 tasks against 2: {row['method']}", 1.05, row["1024"]["ratio"])
    if family := results.get("family"):
        for row in family["results"]["own"]:
            add(f"own, 64 tasks of rank 8 against 2, {row['ids']}", 1.10, row["64"]["ratio"])
        sparse = [(row["smora@0.05"]["ratio"], row["shape"]) for row in family["results"]["sparse"]]
        what = "64 heads of rank 1, the best 16 for each token, against LoRA of rank 64, same dropout"
        add(f"{what}: the median over shapes", 1.05, statistics.median(ratio for ratio, _ in sparse))
        add(f"{what}: the worst shape", 1.05, *max(sparse))
    if switching := results.get("switching"):
        for row in switching["results"]:
            what = f"a switch of experts against a plain copy of the weights it touches, {row['dtype']}"
            add(f"{what}, merged anew", 2.00, row["merged anew"]["ratio"])
            add(f"{what}, kept", 2.00, row["kept"]["ratio"])
    if mixed := results.get("mixed"):
        for row in mixed["results"]:
            what = f"a batch of 32 for {row['in the batch']} of {row['experts']} experts in one pass"
            add(f"{what} against PEFT's adapter_names", 1.00, row["mixed"]["ratio"])
            add(f"{what} against merging each in turn", 1.00, row["mixed"]["ms"] / row["in turn"]["ms"])
    if training := results.get("training"):
        add(
            "`loraweave train` with LoRA against the bare script",
            1.03,
            training["results"]["to_script"]["loraweave, lora"]["ratio"],
        )
    if inference := results.get("inference"):
        for name in ("mlora", "multilora"):
            add(f"inference after merging {name} against the base", 1.00, inference["results"][name]["ratio"])
    return rows


def tables(results: Mapping[str, Any]) -> str:
    """The tables in Markdown."""
    lines = ["| what | at most | reached | |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {what} | {bound} | {reached} | {'met' if met else '**falls short**'} |"
        for what, bound, reached, met in targets(results)
    ]
    if layers := results.get("layers"):
        shapes = [row["shape"] for row in layers["results"]]
        lines += [
            "",
            "A step over that of LoRA with dropout 0.05 (in brackets: over LoRA with the method's own dropout):",
            "",
        ]
        lines += [f"| layer, batch × tokens | {' | '.join(shapes)} |", "| --- |" + " --- |" * len(shapes)]
        names = ["frozen", "lora@0", "poly", *(f"{m}@0.2" for m in ON_HEADS), *(f"{m}@0.05" for m in ON_X)]
        names += ["loop-rlora@0.2", "loop-hydralora@0.05", "loop-multilora@0.05"]
        for name in names:
            cells = []
            for row in layers["results"]:
                cell = f"{row['to_lora@0.05'][name]['ratio']:.2f}"
                if name.endswith("@0.2") and name.partition("@")[0] in ON_HEADS:
                    cell += f" ({row['to_lora@0.2'][name]['ratio']:.2f})"
                cells.append(cell)
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if family := results.get("family"):
        lines += _family(family["results"])
    if models := results.get("models"):
        lines += ["", "A whole training step over LoRA's, and its peak memory over LoRA's:", ""]
        names = list(models["results"][0]["to_lora"])
        lines += [f"| model | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
        for row in models["results"]:
            lora = row["peak_bytes"]["lora"]
            cells = [f"{row['to_lora'][n]['ratio']:.2f}, {row['peak_bytes'][n] / lora:.2f}" for n in names]
            lines.append(f"| {row['model']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _family(results: Mapping[str, Any]) -> list[str]:
    """What a head for every task and many small heads cost, as two tables."""
    lines = ["", "`own`, rank 8 for each task, a step over that with two tasks (896 → 896, 16 × 64 tokens):", ""]
    tasks = [size for size in results["own"][0] if size != "ids"]
    lines += [f"| ids | {' | '.join(f'{size} tasks' for size in tasks)} |", "| --- |" + " --- |" * len(tasks)]
    for row in results["own"]:
        lines.append(" | ".join([f"| {row['ids']}", *(f"{row[size]['ratio']:.2f}" for size in tasks)]) + " |")
    lines += ["", "64 heads of rank 1, the best 16 for each token, over LoRA of rank 64 (dropout 0.05 for both):", ""]
    rows = results["sparse"]
    lines += [
        f"| layer, batch × tokens | {' | '.join(row['shape'] for row in rows)} |",
        "| --- |" + " --- |" * len(rows),
    ]
    return [*lines, " | ".join(["| smora", *(f"{row['smora@0.05']['ratio']:.2f}" for row in rows)]) + " |"]


def main() -> None:
    """Put the tables between the page's marks and draw the figures."""
    page = PAGE.read_text(encoding="utf-8")
    for path in sorted(RESULTS.glob("*.json")):
        results = json.loads(path.read_text())
        marks = f"<!-- {path.stem} -->", f"<!-- end of {path.stem} -->"
        inner = f"{marks[0]}\n{tables(results)}\n{marks[1]}"
        page = re.sub(
            f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", lambda _, inner=inner: inner, page, flags=re.DOTALL
        )
        draw(results, FIGURES, path.stem)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
