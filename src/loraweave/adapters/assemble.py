"""Plain LoRAs of one base become one adapter with a head each; and an adapter with an update per task the other way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from loraweave.adapters.file import AdapterFile
from loraweave.adapters.loras import check_plain, common_sizes, fetched, one_base
from loraweave.adapters.plain import PREFIX, plain_lora
from loraweave.adapters.write import BASE_RECORD, fill, write_adapter
from loraweave.config import WeaveConfig
from loraweave.errors import UserError
from loraweave.files import make_folder, written_whole
from loraweave.locks import locked_new
from loraweave.lowrank.factors import padded
from loraweave.paths import folder_names, whole_name

AssembledGate = Literal["own", "token", "uniform"]


def assemble(
    loras: Mapping[str, str | Path], output: str | Path, gate: AssembledGate = "own", base: str | None = None
) -> Path:
    """Make one adapter of several LoRAs of one base, exactly: a head for each, in the order given.

    Ranks, alphas, rank patterns, rsLoRA's scaling and target modules may differ: heads are padded with zeros to one
    rank, and each LoRA's scaling goes into its head's B.

    Args:
        loras: {name: folder, or name of a repository on the hub}; the names become the tasks.
        output: the folder to write; not there yet, or empty.
        gate: "own": each answers its own task. "uniform": their mean. "token": a router on x that starts at equal
            weights, so at their mean, to be trained on.
        base: the name of the base, where the LoRAs have other names for it; else theirs.

    Returns:
        The folder.

    Raises:
        UserError: fewer than two, no plain LoRA (DoRA, biases, modules trained whole, starts that change the base, and
            layers that are not linear are named), different bases or sizes, or a folder with something in it.
    """
    if len(loras) < 2:
        raise UserError(f"assemble takes two LoRAs or more, got {len(loras)}")
    if gate not in ("own", "token", "uniform"):
        raise UserError(f"gate={gate!r} is not one of own, token, uniform")
    adapters = {name: AdapterFile(fetched(str(where))) for name, where in loras.items()}
    for adapter in adapters.values():
        check_plain(adapter, "become a head")
        adapter.check_values()
    known, revision = (whole_name(base), None) if base else one_base(adapters.values())
    sizes = common_sizes(adapters.values())
    pairs = {
        name: {layer: adapter.formula(layer).factors() for layer in adapter.sizes} for name, adapter in adapters.items()
    }
    rank = max(len(down) for of in pairs.values() for down, _ in of.values())
    tensors: dict[str, Tensor] = {}
    for layer, size in sizes.items():
        nothing = torch.zeros(0, size.d_in), torch.zeros(size.d_out, 0)
        heads = [padded(*of.get(layer, nothing), rank) for of in pairs.values()]
        tensors[f"{PREFIX}{layer}.weave_A"] = torch.stack([down.float() for down, _ in heads])
        tensors[f"{PREFIX}{layer}.weave_B"] = torch.stack([up.float() for _, up in heads])
        if gate == "token":
            tensors[f"{PREFIX}{layer}.weave_router"] = torch.zeros(len(heads), size.d_in)
    first: Any = next(iter(adapters.values())).config
    config = WeaveConfig(
        r=rank,
        lora_alpha=rank,
        method="assembled",
        num_heads=len(loras),
        down="per_head",
        gate=gate,
        task_names=list(loras),
        target_modules=sorted(sizes),
        task_type=first.task_type,
        base_model_name_or_path=known,
        revision=revision,
    )
    recorded = (adapter.folder for adapter in adapters.values() if (adapter.folder / BASE_RECORD).is_file())
    return write_adapter(Path(output), config, tensors, None if base else next(recorded, None))


def split(adapter: str | Path, output: str | Path) -> dict[str, Path]:
    """Write one plain PEFT LoRA for each task of an adapter that tells tasks apart, exactly.

    Every LoRA has one rank and an alpha equal to it, so its scaling is 1 whoever reads it.

    Args:
        adapter: the folder of an adapter of this package, such as one of `own`, or an assembled one.
        output: the folder to write the LoRAs' folders into, named after the tasks; not there yet, or empty.

    Returns:
        The folder of each task's LoRA.

    Raises:
        UserError: no such adapter, one without tasks, one whose update depends on the input or lies beside whole
            blocks, or a folder with something in it.
    """
    source = AdapterFile(Path(adapter))
    source.check_values()
    config: Any = source.config
    if getattr(config, "beside_blocks", False):
        raise UserError(f"{adapter}: lies beside whole blocks and changes no weight, so no LoRA does the same")
    if getattr(config, "depends_on_input", False):
        raise UserError(f"{adapter}: weighs its heads by the input, so no task has a LoRA of its own")
    if not source.tasks:
        raise UserError(f"{adapter}: has one update for all tasks; `loraweave export --to lora` writes it as it is")
    if source.others:
        raise UserError(f"{adapter}: {source.others[0]} is no low-rank update and cannot be divided among tasks")
    folder, written = Path(output), {}
    with locked_new(folder), written_whole(folder) as unfinished:
        for number, (task, name) in enumerate(zip(source.tasks, folder_names(source.tasks), strict=True)):
            plain = plain_lora(source, number)
            lora = plain.config(sorted(plain.pairs), config.base_model_name_or_path, config.task_type, config.revision)
            make_folder(unfinished / name)
            fill(unfinished / name, lora, plain.tensors(), source.folder)
            written[task] = folder / name
    return written
