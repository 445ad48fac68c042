"""From folders of runs to `analysis.json`: every section computed layer by layer. docs/analysis.md has the format."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from loraweave.adapters.file import AdapterFile, natural
from loraweave.analysis import heads, routing, spectra
from loraweave.analysis import logged as curves
from loraweave.analysis.routing import Routing
from loraweave.analysis.sample import sample_router
from loraweave.analysis.spectra import Decomposition
from loraweave.analysis.subjects import AnalysedRun, open_runs
from loraweave.analysis.subspaces import PairOverlap
from loraweave.errors import UserError
from loraweave.files import make_folder, write_json
from loraweave.locks import check_new
from loraweave.quiet import quiet_libraries
from loraweave.runs.folder import environment

FORMAT = 1
COMPARED = 12  # runs whose subspaces are compared, each with each
DIGITS = 6  # significant, of every number

Entry = dict[str, Any]


def analyze(
    folders: Sequence[Path],
    *,
    full: Path | None = None,
    sample: int = 0,
    base: str | None = None,
    trust_code: bool = False,
    command: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> Entry:
    """Analyse runs, alone and against each other.

    Args:
        folders: of finished runs, adapters or comparisons.
        full: a fully fine-tuned model of the same base to compare with.
        sample: run so many examples of each task through runs with a token router.
        base: name or folder of the base, in the place of the one that the runs name.
        trust_code: run code that comes with their bases and, for the sample, functions that their task files name.
        command: what the user typed, kept with the result.
        progress: told what is being looked at.

    Returns:
        The content of analysis.json; docs/analysis.md says what each part is.

    Raises:
        UserError: a folder that holds nothing to analyse, or cannot be read.
    """
    with quiet_libraries(), torch.no_grad():
        runs = open_runs(folders, full, base, trust_code)
        modules = module_types(layer for run in runs for layer in run.update.sizes)
        notes = [note for run in runs for note in run.notes] + _differences(runs)
        analysis: Entry = {
            "format": FORMAT,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": command,
            "versions": environment(0)["packages"],
            "runs": [run.as_dict() for run in runs],
            "notes": notes,
        }
        routed: dict[str, Routing] = {}
        for run in runs:
            progress(f"{run.name}: routing")
            routed[run.name] = _routing(run, sample, trust_code, analysis)
        _updates(runs, modules, routed, analysis, progress)
        _heads(runs, modules, analysis, progress)
        analysis["routing"] = [entry for run in runs for entry in routing.entries(run.name, routed[run.name], modules)]
        analysis["routing_summary"] = [routing.summary(name, found) for name, found in routed.items() if found]
        analysis["gradients"] = [entry for run in runs for entry in curves.gradients(run)]
        analysis["transfer"] = curves.transfer(runs)
        analysis["training"] = [entry for run in runs if (entry := curves.training(run))]
        for section in ("spectra", "heads", "gates", "routing"):
            for entry in analysis[section]:
                entry["depth"] = depth_of(entry["layer"])
        notes += _empty_sections(analysis, runs, sample)
    return _rounded(analysis)


def save(analysis: Entry, folder: Path) -> Path:
    """Write analysis.json, the figures and the report into a new folder.

    Args:
        analysis: from `analyze`.
        folder: not there yet, or empty.

    Returns:
        The path of analysis.json.

    Raises:
        UserError: the folder holds something already, or cannot be made.
    """
    from loraweave.analysis.report import write

    check_new(folder)
    make_folder(folder)
    path = folder / "analysis.json"
    write_json(path, analysis, indent=None)
    write(analysis, folder)
    return path


def module_types(layers: Iterable[str]) -> dict[str, str]:
    """The type of every layer: the last part of its path, and the one before where parents of several kinds have it."""
    listed = list(dict.fromkeys(layers))
    parents: dict[str, set[str]] = {}
    for layer in listed:
        parents.setdefault(layer.rpartition(".")[2], set()).add(_parent(layer))

    def of(layer: str) -> str:
        name = layer.rpartition(".")[2]
        return f"{_parent(layer)}.{name}" if len(parents[name]) > 1 else name

    return {layer: of(layer) for layer in listed}


def _parent(layer: str) -> str:
    return next((part for part in reversed(layer.split(".")[:-1]) if not part.isdigit()), "")


def depth_of(layer: str) -> int | None:
    """The index of the block that a layer belongs to: the first number in its path."""
    return next((int(part) for part in layer.split(".") if part.isdigit()), None)


def _routing(run: AnalysedRun, sample: int, trust_code: bool, analysis: Entry) -> Routing:
    """A run's routing from the best source there is; fills in `tokens`."""
    analysis.setdefault("tokens", [])
    if sample and run.has_router:
        if run.config is None:
            analysis["notes"].append(f"{run.name}: no sample, an adapter alone does not know its tasks' data")
        else:
            sampled = sample_router(run, sample, trust_code)
            analysis["tokens"] += sampled.tokens
            return sampled.routing
    found = routing.task_routing(run) or routing.recorded_routing(run)
    if run.has_router and not found:
        analysis["notes"].append(f"{run.name}: no record of its routing, so its heads are taken to weigh alike")
    return found


def _updates(
    runs: Sequence[AnalysedRun],
    modules: Mapping[str, str],
    routed: Mapping[str, Routing],
    analysis: Entry,
    progress: Callable[[str], None],
) -> None:
    """Spectra and subspace overlaps: every layer's factors are read once, for all runs together."""
    compared = _compared(runs)
    usages = {name: routing.usage_by_layer(found) for name, found in routed.items()}
    pairs: dict[tuple[str, str, str, str], PairOverlap] = {}
    found: list[Entry] = []
    zero: dict[str, int] = {}
    untrained: dict[tuple[str, str | None], int] = {}
    for number, layer in enumerate(sorted(modules, key=natural), 1):
        progress(f"layer {number} of {len(modules)}: {layer}")
        there: list[tuple[AnalysedRun, Decomposition]] = []
        for run in runs:
            if layer not in run.update.sizes:
                continue
            whole, by_task = _update(run, layer, usages[run.name])
            for task, one in by_task or [(None, whole)]:
                found.append(
                    {
                        "run": run.name,
                        "layer": layer,
                        "module": modules[layer],
                        "task": task,
                        **spectra.spectrum(one.values * 0 if one.is_zero else one.values),
                    }
                )
                if one.is_zero and not whole.is_zero:
                    untrained[run.name, task] = untrained.get((run.name, task), 0) + 1
            zero[run.name] = zero.get(run.name, 0) + whole.is_zero
            if run in compared:
                there.append((run, whole))
        for (first, a), (second, b) in combinations(there, 2):
            for side in ("left", "right"):
                if getattr(a, side).shape[0] != getattr(b, side).shape[0]:
                    continue
                key = (first.name, second.name, modules[layer], side)
                pairs.setdefault(key, PairOverlap(key[:2], key[2], side)).add(layer, a, b)
    analysis["spectra"] = found
    analysis["spectrum_summary"] = spectra.summarise(found)
    analysis["subspaces"] = [pair.as_dict() for pair in pairs.values() if pair.by_layer]
    analysis["notes"] += [f"{run}: no update at all in {count} layers" for run, count in zero.items() if count]
    analysis["notes"] += [f"{run}: no update at all for {task} in {n} layers" for (run, task), n in untrained.items()]
    analysis["notes"] += [
        f"{run.name}: the change of {run.update.doubtful[0]} is about as large as the weight itself; "
        f"was it really fine-tuned from {run.base}?"
        for run in runs
        if not isinstance(run.update, AdapterFile) and run.update.doubtful
    ]


def _compared(runs: Sequence[AnalysedRun]) -> list[AnalysedRun]:
    """The runs whose subspaces are compared; --full comes last and stays in."""
    return list(runs) if len(runs) <= COMPARED else [*runs[: COMPARED - 1], runs[-1]]


def _update(
    run: AnalysedRun, layer: str, usage: Mapping[str, torch.Tensor]
) -> tuple[Decomposition, list[tuple[str | None, Decomposition]]]:
    """The update of one layer as a whole, and for every task that it tells apart."""
    if isinstance(run.update, AdapterFile):
        return spectra.decomposed(run.update, layer, usage)
    return run.update.decomposed(layer), []


def _heads(
    runs: Sequence[AnalysedRun], modules: Mapping[str, str], analysis: Entry, progress: Callable[[str], None]
) -> None:
    """Similarity of heads, their map, and the norms of gates per output channel."""
    analysis |= {"heads": [], "head_map": [], "gates": []}
    for run in runs:
        if run.adapter is None or run.weave is None or run.weave.most_heads < 2:
            continue
        progress(f"{run.name}: heads")
        starts: dict[str, Entry] = {}
        try:
            for layer, start in heads.random_starts(run):
                starts[layer] = heads.describe(run.adapter.tensors(layer)["B"] - start)
        except UserError as reason:
            analysis["notes"].append(f"{reason}; so only the similarity of the heads as they are is shown")
        for layer in run.adapter.sizes:
            tensors = {**run.adapter.tensors(layer), "B": run.adapter.formula(layer).B}
            where = {"run": run.name, "layer": layer, "module": modules[layer]}
            if len(tensors["B"]) > 1:
                analysis["heads"] += [{**where, **entry} for entry in heads.layer_heads(tensors, starts.get(layer))]
            if "channel" in tensors:
                analysis["gates"].append({**where, "norms": tensors["channel"].norm(dim=1).tolist()})
        analysis["head_map"] += heads.head_map(run, modules)


def _differences(runs: Sequence[AnalysedRun]) -> list[str]:
    """What keeps runs from being compared layer by layer."""
    notes = []
    if len(runs) > COMPARED:
        notes.append(
            f"Overlap is shown among {COMPARED} runs, the first {COMPARED - 1} and the last: {len(runs)} would make "
            f"{len(runs) * (len(runs) - 1) // 2} pairs"
        )
    for first, second in combinations(_compared(runs), 2):
        same_base = (
            first.base_fingerprint == second.base_fingerprint
            if first.base_fingerprint and second.base_fingerprint
            else first.base == second.base
        )
        shared = first.update.sizes.keys() & second.update.sizes.keys()
        pair = f"{first.name} and {second.name}"
        if not same_base:
            notes.append(f"{pair} adapt different bases: where layers agree in name and size, overlap is shown anyway")
        if not shared:
            notes.append(f"{pair} have no layer in common, so their overlap is not known")
        elif different := [layer for layer in shared if first.update.sizes[layer] != second.update.sizes[layer]]:
            example = min(different, key=natural)
            notes.append(f"{pair}: {len(different)} layers differ in size, {example} first; no overlap there")
    return notes


def _empty_sections(analysis: Entry, runs: Sequence[AnalysedRun], sample: int) -> list[str]:
    """Why a section is empty, in a user's words."""
    several = len(runs) > 1
    reasons = {
        "subspaces": "Subspace overlap compares runs: name at least two" if not several else "",
        "heads": "Similarity of heads: no run here has several heads",
        "gates": "Gates per output channel: only MultiLoRA has them, or gate: channel",
        "routing": "Routing: no run here weighs its heads by token or task and kept a record of it",
        "tokens": (
            "Typical tokens: no run here has a token router"
            if sample
            else "Typical tokens of the heads need --sample N, which runs examples through the model"
        ),
        "gradients": "Gradients of the tasks against each other: none of the runs recorded them",
        "transfer": "Tasks alone against together: needs a run on one task and one on several, of one method",
        "training": "Training: adapters alone do not hold what was logged",
    }
    return [reason for section, reason in reasons.items() if reason and not analysis[section]]


def _rounded(value: Any) -> Any:
    """Numbers to six significant digits; None for what is no number, which JSON cannot say."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return value
