"""Export an adapter: choose what is written, write it aside, read it back, compare, and only then put it in place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from rich.console import Console
from torch import Tensor

from loraweave.adapters.plain import PlainLora, plain_lora
from loraweave.bases import device, fingerprint
from loraweave.errors import UserError, nearest
from loraweave.evaluation.scoring import not_scored
from loraweave.export import gguf_adapter, gguf_model, lora, merged
from loraweave.export.averages import mean_weights, uniform_weights
from loraweave.export.card import write_card
from loraweave.export.measure import Bench, Said, told_task
from loraweave.export.outputs import KEPT, Difference, difference, share_kept
from loraweave.export.record import Export, write_record
from loraweave.export.source import Source, open_source
from loraweave.export.target import Target, Work
from loraweave.export.variants import Variant, choose_variants
from loraweave.files import written_whole
from loraweave.locks import check_new, locked_new
from loraweave.quiet import quiet_libraries
from loraweave.runs.adapting import take_off
from loraweave.runs.attaching import attach
from loraweave.terminal import plain_console

TARGETS: dict[str, Target] = {
    "lora": lora,
    "merged": merged,
    "gguf": gguf_adapter,
    "gguf-model": gguf_model,
}

LOST = 0.5
"""How far from all of it what an exact export does of what its adapter does may be: rounding's share, generously."""


def export(
    folder: str | Path,
    to: str,
    output: str | Path,
    *,
    tasks: Sequence[str] = (),
    uniform: bool = False,
    max_rank: int | None = None,
    base: str | None = None,
    limit: int = 128,
    data_dir: str | Path | None = None,
    trust_code: bool = False,
    console: Console | None = None,
) -> list[Export]:
    """Turn an adapter into something that others can load, exactly where the algebra allows it.

    Args:
        folder: of a finished run, or of an adapter.
        to: "lora"; "merged" for full weights; "gguf" for an adapter that llama.cpp loads, "gguf-model" for a merged
            model that it runs.
        output: new or empty. An update that depends on the task gets a folder in it for each, named after the task.
        tasks: which; all where none is named. Heads weighed by the input get their mean weights on the task's data.
        uniform: all heads weigh alike in a router's place.
        max_rank: truncate, in each layer to the nearest in the Frobenius norm.
        base: name or folder of the base, in the place of the one that the adapter names.
        limit: held-out examples of each task on which the cost of what is not exact is measured.
        data_dir: where the run's task and data files are now, by the paths that they had from its run file's folder.
        trust_code: run functions that its task files name, and code that comes with its base.
        console: where it is said what cannot be done; stderr when None.

    Returns:
        What was written, compared with the adapter.

    Raises:
        UserError: what cannot be exported so, and what can; a folder that is there, or that another process
            writes; an export that does not do what the adapter does. Nothing is written then.
    """
    output, console = Path(output), console or plain_console(stderr=True)
    if to not in TARGETS:
        raise UserError(f"--to {to}: not one of {', '.join(TARGETS)}{nearest(to, TARGETS)}")
    if output.name in ("", ".."):
        raise UserError(f"{output}: the folder of an export takes its place as a whole, so it wants a name of its own")
    check_new(output)
    source = open_source(folder, base, trust_code, data_dir)
    source.check_layers()
    TARGETS[to].check(source)
    variants = choose_variants(source, tasks, uniform)
    if max_rank is not None and source.unfixed:
        raise UserError(f"--max-rank: {source.unfixed}, so there is no rank to cut")
    with locked_new(output), quiet_libraries(), torch.no_grad():
        model, tokenizer = source.load_base("float32")
        work = Work(source, model.to(device()), tokenizer, fingerprint(model))
        bench = Bench(source, tokenizer, limit, console)
        prepared = _prepare(work, bench, variants, max_rank)
        with written_whole(output) as unfinished:
            return [_write(work, bench, to, (output, unfinished), each) for each in prepared]


@dataclass(frozen=True)
class _Prepared:
    """What is to be written, and what it is held against.

    Attributes:
        variant: which. plain: its update as a plain LoRA; None where it is more.
        exact: whether nothing but rounding should tell it from the adapter.
        adapter: what the adapter says to held-out rows. base: what the bare base says to the same, where it is exact.
        notes: what a person should know.
        room: logits that were kept of what the adapter says, in numbers, and are of what is held against it.
    """

    variant: Variant
    plain: PlainLora | None
    exact: bool
    adapter: Said
    base: Said | None
    notes: list[str]
    room: int


def _prepare(work: Work, bench: Bench, variants: Sequence[Variant], max_rank: int | None) -> list[_Prepared]:
    adapter, found, room = work.source.adapter, [], KEPT // len(variants)
    bare = {v: bench.said(work.base, v, False, True, room) for v in variants if v.heads == "as trained"}
    model = attach(work.base, adapter.folder)
    try:
        for variant in variants:
            plain: PlainLora | None = None
            notes: list[str] = []
            if not work.source.unfixed:
                number = adapter.tasks.index(variant.task) if variant.task in adapter.tasks else None
                weights, notes = _head_weights(work.source, bench, model, variant)
                plain = plain_lora(adapter, number, weights, max_rank)
            exact = variant.heads == "as trained" and not (plain is not None and plain.is_cut)
            if not exact:
                bench.check_measurable()
                for note in not_scored(bench.measured(variant)[1]):
                    bench.console.print(note, style="dim", markup=False, soft_wrap=True)
            said = bench.said(model, variant, True, exact, room)
            found.append(_Prepared(variant, plain, exact, said, bare[variant] if exact else None, notes, room))
    finally:
        take_off(model)
    return found


def _write(work: Work, bench: Bench, to: str, place: tuple[Path, Path], what: _Prepared) -> Export:
    """Write one, read it back and compare; `place`: the output, and where it lies until all is whole."""
    variant, plain, exact = what.variant, what.plain, what.exact
    output, unfinished = (folder / variant.folder if variant.folder else folder for folder in place)
    unfinished.mkdir(exist_ok=True)
    target, source = TARGETS[to], work.source
    notes = [*what.notes, *target.write(work, variant, plain, unfinished)]
    notes += source.tokenizer_note(work.tokenizer, to == "gguf-model") if to != "gguf" else []
    if source.fingerprint not in (None, work.fingerprint):
        notes.append(
            f"the base is not the one that the adapter was trained on, whose fingerprint is {source.fingerprint}"
        )
    with target.running(work, unfinished) as model:
        after = bench.said(model, variant, False, exact, what.room)
    differences = {name: difference(said, after.outputs[name]) for name, said in what.adapter.outputs.items()}
    notes += [
        f"KL is of the first {found.rows} of {found.of} rows of {name}: logits of no more are kept"
        for name, found in differences.items()
        if not exact and found.rows < found.of
    ]
    if exact:
        _check_does_the_same(what, after, differences, target.tolerance(source), source.folder)
    scores = {name: (score, after.scores[name]) for name, score in what.adapter.scores.items()}
    rank, native, kept = (plain.rank, plain.native, plain.kept) if plain else (None, None, 1.0)
    about = (differences, scores, tuple(notes), source.spec.revision)
    made = Export(output, to, source.base, variant, exact, rank, native, kept, *about)
    write_card(made, unfinished, source)
    write_record(made, unfinished, work)
    return made


def _check_does_the_same(
    what: _Prepared, after: Said, differences: Mapping[str, Difference], tolerance: float, folder: Path
) -> None:
    """Raise UserError unless an export that is exact says what the adapter says, and not only what the base does."""
    for found in differences.values():
        if not found.largest <= tolerance * max(1.0, found.scale):
            raise UserError(
                f"{folder}: what was written does not do what the adapter does (a logit differs by "
                f"{found.largest:.2g}), so it was taken away again"
            )
    assert what.base is not None
    three = [[said.outputs[name] for name in differences] for said in (what.base, what.adapter, after)]
    kept = share_kept(*three)
    if kept is not None and not abs(kept - 1) <= LOST:
        raise UserError(
            f"{folder}: what was written does {kept:.0%} of what the adapter does, so it was taken away again; where "
            "weights are rounded to half precision an update can be too small for them: export --to lora keeps it"
        )


def _head_weights(
    source: Source, bench: Bench, model: PeftModel, variant: Variant
) -> tuple[dict[str, Tensor] | None, list[str]]:
    """What takes a router's place, by layer, and what a person should know of it."""
    if variant.heads == "as trained":
        return None, []
    uniform = uniform_weights(source.adapter)
    if variant.heads == "uniform":
        return uniform, []
    assert variant.task is not None
    with told_task(model, source, variant.task):
        found = mean_weights(model, bench.training_rows(variant.task))
    missed = [path for path in uniform if path not in found and source.adapter.formula(path).depends_on_input]
    if not missed:
        return found, []
    note = f"no token came through {len(missed)} of {len(uniform)} layers, {missed[0]} first: heads weigh alike there"
    return uniform | found, [note]
