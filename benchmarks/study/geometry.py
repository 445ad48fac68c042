"""What a run's update is like, measured while its adapter is at hand: the files are too large to be committed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loraweave import analysis
from study.place import Place
from study.plan import Regime


def measure_new(place: Place, regime: Regime) -> None:
    """Measure every finished run of a regime whose folder is here and that was not measured, or not beside full
    fine-tuning, and keep the numbers."""
    here, found = folders(place, regime), place.read_geometry()
    full = next((folder for (method, _), folder in here.items() if method == "full"), None)
    for (method, _), folder in here.items():
        if method == "full":
            continue
        key = f"{regime} {folder.name}"  # with its learning rate, which a later choice may change
        known = found.get(key)
        if known is None or (full is not None and known["overlap_with_full"] is None):
            found[key] = measure(folder, full)
            place.write_geometry(regime, found)


def folders(place: Place, regime: Regime) -> dict[tuple[str, int], Path]:
    """The run folders of a regime that are on this machine, by method and seed."""
    results = place.results(regime)
    found = {
        (run["method"], run["seed"]): place.comparison(regime) / Path(run["adapter"]).parent
        for run in (results["runs"] if results is not None else ())
        if run["adapter"] is not None
    }
    return {run: folder for run, folder in found.items() if folder.is_dir()}


def measure(folder: Path, full: Path | None) -> dict[str, float | None]:
    """Means over the layers of a run's update.

    Args:
        folder: of the run.
        full: of a run of full fine-tuning to compare with.

    Returns:
        effective_rank: the exponential of the entropy of the squared singular values. top_share: the first direction's
        share of them. overlap_with_full: of the first eight output directions with full fine-tuning's. head_similarity:
        the mean cosine of two heads' B; learned_similarity: of what they learned since their start, which is the same
        where they started at zero. None for what a run has not.
    """
    numbers = analysis.analyze([folder], full=full)
    name = numbers["runs"][0]["name"]
    whole = next(row for row in numbers["spectrum_summary"] if row["run"] == name and row["module"] == "all")
    heads = [entry for entry in numbers["heads"] if entry["run"] == name and entry["matrix"] == "B"]
    overlaps = [
        layer["overlap"]
        for entry in numbers["subspaces"]
        if entry["side"] == "left" and name in entry["runs"]
        for layer in entry["by_layer"]
    ]
    return {
        "effective_rank": whole["effective_rank"],
        "top_share": whole["top1"],
        "overlap_with_full": _mean(overlaps),
        "head_similarity": _mean([entry["mean_similarity"] for entry in heads]),
        "learned_similarity": _mean([_learned(entry) for entry in heads]),
    }


def _learned(entry: dict[str, Any]) -> float | None:
    return (entry["since_start"] or entry)["mean_similarity"]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 6) if known else None
