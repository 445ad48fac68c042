"""The folder of a comparison: results.json, index.html and a folder per run; never one comparison over another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loraweave.comparison.records import FORMAT, Results
from loraweave.comparison.search import rate_name
from loraweave.errors import UserError
from loraweave.files import check_links, is_left_over, read_json, write_json
from loraweave.paths import inside
from loraweave.runs.folder import RunFolder, changed_settings
from loraweave.runs.methods import MethodSpec, choose_method
from loraweave.shapes import check_shape


def _fixed(settings: dict[str, Any], methods: Mapping[str, MethodSpec], evaluated: bool, known: bool) -> dict[str, Any]:
    """What must stay for old and new runs to stand in one table.

    Lists of runs may grow, the folder may move, and the batch size of the evaluation decides no score. Of learning
    rates by method those of `methods` count; how to evaluate counts once something was. Where base and data lie does
    not count once what they are is `known`.
    """
    places = ("base_dir", *(("model", "data_dir") if known else ()))
    config = {key: value for key, value in settings["config"].items() if key not in (*places, "eval")}
    rate = config["train"].get("learning_rate")
    if isinstance(rate, Mapping):
        names = {choose_method(spec).method.name for spec in methods.values()}
        config["train"] = config["train"] | {"learning_rate": {name: rate.get(name) for name in sorted(names)}}
    if evaluated:
        asked = {"forgetting": [], **settings["config"]["eval"]}
        config["eval"] = {key: value for key, value in asked.items() if key != "batch_size"}
    return {"config": config, "match_params": settings["match_params"]}


def check_same_methods(earlier: Results, methods: Mapping[str, MethodSpec]) -> None:
    """Raise `UserError` if one of `methods` has been trained with other fields in an earlier part of the comparison."""
    trained = {run["method"] for run in earlier["runs"] if run["status"] == "finished"}
    trained |= {search["method"] for search in earlier["searches"] if search["chosen"] is not None}
    before = earlier["settings"]["methods"]
    for name in trained & before.keys() & methods.keys():
        old, new = choose_method(before[name]).given, choose_method(methods[name]).given
        changed = changed_settings({"method": dict(old)}, {"method": dict(new)})
        if changed:
            raise UserError(f"{name} was trained otherwise in this comparison: {'; '.join(changed)}")


class ComparisonFolder:
    """Paths of a comparison.

    path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = path / "results.json"
        self.page = path / "index.html"

    def run(self, method: str, seed: int, learning_rate: float | None = None, steps: int | None = None) -> Path:
        """Where the run of one method and seed lives; those of a search, and what follows from it, have their rate
        in the name, unless there is one with that rate from before the search; shorter ones their steps too."""
        plain = self.path / "runs" / f"{method}-seed{seed}"
        if learning_rate is None:
            return plain
        if steps is not None:
            return plain.with_name(f"{plain.name}-lr{rate_name(learning_rate)}-steps{steps}")
        summary = RunFolder(plain).summary
        if summary.is_file() and read_json(summary).get("learning_rate") == learning_rate:
            return plain
        return plain.with_name(f"{plain.name}-lr{rate_name(learning_rate)}")

    def open(self, settings: dict[str, Any], resume: bool) -> Results | None:
        """Check that the folder may be used; returns the results so far when an earlier comparison is resumed.

        Methods, seeds and learning rates may have changed since: runs that exist are not run again, others are added.

        Raises `UserError` when the folder holds anything that is not ours to add to: another comparison, the same one
        without `resume`, or other files.
        """
        if self.results.is_file():
            if not resume:
                raise UserError(
                    f"{self.path} already holds a comparison: add --resume to go on, or choose another --output"
                )
            check_links(self.path)
            earlier = self._read()
            methods = earlier["settings"]["methods"]
            evaluated = any(run["scores"] for run in earlier["runs"])
            known = bool(earlier["base"] and earlier["data"])
            old, new = (_fixed(given, methods, evaluated, known) for given in (earlier["settings"], settings))
            changed = changed_settings(old, new)
            if changed:
                raise UserError(f"{self.path} holds another comparison, which cannot be resumed: {'; '.join(changed)}")
            return earlier
        if self.path.exists() and not (self.path.is_dir() and all(map(is_left_over, self.path.iterdir()))):
            raise UserError(f"{self.path} is not empty and holds no comparison: choose another --output")
        return None

    def methods(self) -> list[MethodSpec]:
        """Those of the comparison that is there; none where there is none."""
        return [*self._read()["settings"]["methods"].values()] if self.results.is_file() else []

    def seeds(self) -> list[int]:
        """Those of the comparison that is there; none where there is none."""
        return [*self._read()["settings"]["seeds"]] if self.results.is_file() else []

    def write(self, results: Results) -> None:
        """Write results.json."""
        write_json(self.results, results)

    def _read(self) -> Results:
        found = read_json(self.results)
        if found.get("format") != FORMAT:
            raise UserError(f"{self.results}: not the results of a comparison by this version")
        check_shape(found, Results, str(self.results))
        for run in found["runs"]:
            if run["adapter"] is not None:
                inside(self.path, run["adapter"], self.results)
        return found  # type: ignore[return-value]
