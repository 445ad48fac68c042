"""What a comparison came to, as `compare` hands it out: its folder, and its results by what people ask of them."""

from dataclasses import dataclass
from pathlib import Path

from loraweave.comparison.records import Results


@dataclass(frozen=True)
class Comparison:
    """What methods came to beside each other; all of it lies in the folder.

    Attributes:
        folder: with results.json, index.html and a folder for each run.
        results: the content of results.json, as `comparison.records` describes it: every run, the summary of each
            method over its seeds, the differences with their intervals, the recommendation.
    """

    folder: Path
    results: Results

    @property
    def page(self) -> Path:
        """The HTML page with tables, verdicts and figures."""
        return self.folder / "index.html"

    @property
    def recommended(self) -> str | None:
        """The method to take; None where nothing can be recommended."""
        return self.results["recommendation"]["method"]

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """For each method and task the mean score over the seeds that finished, in the task's own unit."""
        return {
            row["method"]: {task: spread["mean"] for task, spread in row["scores"].items()}
            for row in self.results["summary"]
        }

    @property
    def adapters(self) -> dict[tuple[str, int | None], Path]:
        """The adapter's folder of each run that has one here, by method and seed."""
        return {
            (run["method"], run["seed"]): self.folder / run["adapter"]
            for run in self.results["runs"]
            if run["adapter"] is not None and (self.folder / run["adapter"]).is_dir()
        }

    @property
    def elsewhere(self) -> list[tuple[str, int | None]]:
        """The runs, by method and seed, that are finished and whose adapters are not here: made on another machine."""
        there = [(run["method"], run["seed"]) for run in self.results["runs"] if run["adapter"] is not None]
        return [each for each in there if each not in self.adapters]

    @property
    def failed(self) -> dict[tuple[str, int | None], str]:
        """The error of each run that did not finish, by method and seed."""
        return {
            (run["method"], run["seed"]): run["error"] or ""
            for run in self.results["runs"]
            if run["status"] == "failed"
        }
