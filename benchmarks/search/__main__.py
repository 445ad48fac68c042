"""`python -m search`: rates chosen in rounds of shorter trainings against those of whole ones, on nano; to
results/search."""

import argparse
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

import loraweave
from loraweave.bases import load_base
from loraweave.comparison.display import ComparisonProgress
from loraweave.comparison.jobs import begin_searches, expected, next_jobs, put
from loraweave.comparison.opening import choose_specs, settings_of
from loraweave.comparison.recording import new_results
from loraweave.comparison.records import Asked, Search
from loraweave.comparison.runner import Runner
from loraweave.comparison.store import ComparisonFolder
from loraweave.files import write_json
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import environment
from loraweave.runs.methods import choose_method
from loraweave.runs.resolve import own_rate

OUTPUT = Path(__file__).parent.parent / "results" / "search" / "search.json"
RUN_FILE = Path(loraweave.__file__).parent / "quickstart" / "run.yaml"
RATES = ("0.25x", "0.5x", "1x", "2x", "4x")


@dataclass
class Line:
    """One method's search in rounds beside its search on whole trainings.

    Attributes:
        rounds: steps of the rounds' trainings.
        chosen, whole: the rate that either search takes.
        loss, best: validation loss of a whole training at these rates, in nats per completion token.
        steps, whole_steps: that the rounds train, without the whole trainings after them; and the whole search.
    """

    method: str
    rounds: list[int]
    chosen: float
    whole: float
    loss: float
    best: float
    steps: int
    whole_steps: int


def searched(config: RunConfig, methods: list[str], steps: int | None, whole: int, folder: Path) -> list[Search]:
    """The searches of these methods alone, without their runs."""
    specs = choose_specs(config, methods)
    settings = settings_of(config, specs, [config.seed], RATES, False, None, None)
    results = new_results(settings, Asked(methods=methods, seeds=[config.seed], widen=False))
    base = load_base(config.model)
    begin_searches(
        results, {name: own_rate(config, choose_method(spec), base[0]) for name, spec in specs.items()}, steps
    )
    quiet = Console(file=io.StringIO())
    with ComparisonProgress([job.name for job in expected(results)], Console(stderr=True)) as display:
        runner = Runner(config, config.seed, ComparisonFolder(folder), base, display.run, quiet, whole)
        while trials := [job for job in next_jobs(results) if job.kind == "trial"]:
            put(results, trials[0], runner.run_job(trials[0]))
    return results["searches"]


def main() -> None:
    """Search both ways, and write what each chose."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=240, help="of a whole training")
    parser.add_argument("--shares", default="0.125,0.25,0.5", help="of these steps, for the last round")
    parser.add_argument("--methods", default="lora,multilora,hydralora,rlora,mtllora,moelora")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "search", help="of the trainings")
    given = parser.parse_args()
    config = RunConfig.load(RUN_FILE, [f"train.max_steps={given.steps}"])
    del config.train["learning_rate"]  # each method has its own default
    methods = given.methods.split(",")
    full = searched(config, methods, None, given.steps, given.folder / "whole")
    lines = []
    for share in map(float, given.shares.split(",")):
        steps = round(share * given.steps)
        for short, whole in zip(
            searched(config, methods, steps, given.steps, given.folder / str(steps)), full, strict=True
        ):
            losses = {trial["learning_rate"]: trial["validation_loss"] for trial in whole["trials"]}
            assert short["chosen"] is not None
            assert whole["chosen"] is not None
            lines.append(
                Line(
                    method=short["method"],
                    rounds=short["rounds"] or [],
                    chosen=short["chosen"],
                    whole=whole["chosen"],
                    loss=losses[short["chosen"]] or float("nan"),
                    best=losses[whole["chosen"]] or float("nan"),
                    steps=sum(trial["steps"] or 0 for trial in short["trials"]),
                    whole_steps=given.steps * len(whole["trials"]),
                )
            )
            print(json.dumps(asdict(lines[-1])), flush=True)
    made = {"command": vars(given) | {"folder": None}, "environment": environment(config.seed), "searches": full}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    write_json(OUTPUT, {**made, "lines": [asdict(line) for line in lines]})


if __name__ == "__main__":
    main()
