"""The folder of a comparison: results.json, index.html and a folder per run; never one comparison over another."""

import json
from pathlib import Path
from typing import Any

from loraweave.comparison.page import write_page
from loraweave.comparison.results import FORMAT, Results, describe_tasks, summarise
from loraweave.errors import UserError
from loraweave.training.checkpoints import write_json
from loraweave.training.folder import differences


def _fixed(settings: dict[str, Any]) -> dict[str, Any]:
    """What must stay for old and new runs to stand in one table: all but the lists of runs and the folder's place."""
    config = {key: value for key, value in settings["config"].items() if key != "base_dir"}
    return {"config": config, "match_params": settings["match_params"]}


class ComparisonFolder:
    """Paths of a comparison.

    path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = path / "results.json"
        self.page = path / "index.html"

    def run(self, method: str, seed: int) -> Path:
        """Where the run of one method and seed lives."""
        return self.path / "runs" / f"{method}-seed{seed}"

    def open(self, settings: dict[str, Any], resume: bool) -> Results | None:
        """Check that the folder may be used; returns the results so far when an earlier comparison is resumed.

        Methods and seeds may have changed since: runs that exist are not run again, others are added.

        Raises `UserError` when the folder holds anything that is not ours to add to: another comparison, the same one
        without `resume`, or other files.
        """
        if self.results.is_file():
            if not resume:
                raise UserError(
                    f"{self.path} already holds a comparison: add --resume to go on, or choose another --output"
                )
            earlier = self._read()
            changed = differences(_fixed(earlier["settings"]), _fixed(settings))
            if changed:
                raise UserError(f"{self.path} holds another comparison, which cannot be resumed: {'; '.join(changed)}")
            return earlier
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"{self.path} is not empty and holds no comparison: choose another --output")
        return None

    def make(self) -> None:
        """Make the folder if it is not there; raises `UserError` when that cannot be done."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: the folder cannot be made: {error.strerror}") from error

    def write(self, results: Results) -> None:
        """Bring the summary up to date and write results.json and index.html."""
        results["tasks"] = describe_tasks(results["runs"])
        results["summary"] = summarise(results["runs"])
        write_json(self.results, results)
        write_page(results, self.page)

    def _read(self) -> Results:
        try:
            found = json.loads(self.results.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{self.results}: not JSON: {error}") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise UserError(f"{self.results}: not the results of a comparison by this version")
        return found  # type: ignore[return-value]
