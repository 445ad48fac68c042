"""Run the measurements and write `benchmarks/results/speed/<device>.json`: `make bench`, `make bench-gpu`."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from loraweave.runs.folder import environment

from . import experts, layers, models, training

RESULTS = Path(__file__).resolve().parents[1] / "results" / "speed"


def parts_for(device: str) -> dict[str, Callable[[], Any]]:
    """The measurements by name."""
    if device == "cuda":
        where: dict[str, Any] = {"device": "cuda", "dtype": torch.float32, "autocast": True}
        return {
            "layers": lambda: layers.compare_layers(rounds=15, shapes=layers.LONG_SHAPES, **where),
            "loops": lambda: layers.against_loops(rounds=15, shapes=layers.LONG_SHAPES, **where),
            "growth": lambda: layers.growth(**where),
            "family": lambda: layers.family(rounds=15, shapes=layers.LONG_SHAPES, **where),
            "models": lambda: models.compare_models(device="cuda", autocast=True),
            "training": training.compare_training,
            "inference": lambda: models.inference(device="cuda"),
            "switching": lambda: experts.switching(device="cuda"),
            "mixed": lambda: experts.mixed_batches(device="cuda"),
        }
    return {
        "layers": layers.compare_layers,
        "loops": layers.against_loops,
        "growth": layers.growth,
        "family": layers.family,
        "models": models.compare_models,
        "training": training.compare_training,
        "inference": models.inference,
        "switching": experts.switching,
        "mixed": experts.mixed_batches,
    }


def main() -> None:
    """Run the parts asked for, each written as soon as it is there; parts not run keep their last results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--parts", nargs="*", help="all by default")
    arguments = parser.parse_args()
    parts = parts_for(arguments.device)
    path = RESULTS / f"{arguments.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name in arguments.parts or parts:
        start = time.perf_counter()
        results[name] = {"environment": environment(0), "results": parts[name]()}
        results[name]["seconds"] = round(time.perf_counter() - start, 1)
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {results[name]['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
