"""Two checkouts' measurements beside each other: `python -m speed.paired OLD NEW`, where `python -m speed` was run.

Both have to be measured one after the other on one quiet machine. What is compared are steps over LoRA's and the bare
script's, which were timed in turn with them, so that a machine that slows down in between slows both down.
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks", "results", "speed", "cpu.json")
WRITTEN = Path(__file__).resolve().parents[1] / "results" / "paired" / "speed.json"


def paired(old: dict[str, Any], new: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The new step over the old one, each as a ratio to its yardstick: of every method the median over shapes, and of
    `loraweave train` as it is."""
    steps: dict[str, list[float]] = {}
    shapes = {row["shape"]: row["to_lora@0.05"] for row in old["layers"]["results"]}
    for row in new["layers"]["results"]:
        for name, value in row["to_lora@0.05"].items():
            if (before := shapes.get(row["shape"], {}).get(name)) is not None:
                steps.setdefault(name, []).append(value["ratio"] / before["ratio"])
    runs = {name: part["training"]["results"]["to_script"] for name, part in (("old", old), ("new", new))}
    return {
        "layers": {name: round(statistics.median(each), 3) for name, each in steps.items()},
        "training": {
            name: round(value["ratio"] / runs["old"][name]["ratio"], 3) for name, value in runs["new"].items()
        },
    }


def main() -> None:
    """Write and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    given = parser.parse_args()
    read = [json.loads((folder / RESULTS).read_text(encoding="utf-8")) for folder in (given.old, given.new)]
    found = {
        "old": _commit(given.old),
        "new": _commit(given.new),
        "environment": read[1]["layers"]["environment"],
        **paired(*read),
    }
    WRITTEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({part: found[part] for part in ("layers", "training")}, indent=1))


def _commit(folder: Path) -> str:
    run = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
