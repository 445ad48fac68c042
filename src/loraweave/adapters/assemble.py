"""Plain LoRAs of one base become one adapter with a head each; and an adapter with an update per task the other way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import LoraConfig
from torch import Tensor
from torch.nn.functional import pad

from loraweave.adapters.config import NAME
from loraweave.adapters.file import WEIGHTS, AdapterFile
from loraweave.adapters.write import write_adapter
from loraweave.config import WeaveConfig
from loraweave.errors import UserError

AssembledGate = Literal["own", "token", "uniform"]
PREFIX = "base_model.model."
# Starts that change the base's weights, so that the factors by themselves are not the update.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def assemble(loras: Mapping[str, str | Path], output: str | Path, gate: AssembledGate = "own") -> Path:
    """Make one adapter of several LoRAs of one base, exactly: a head for each, in the order given.

    Ranks, alphas, rank patterns, rsLoRA's scaling and target modules may differ: heads are padded with zeros to one
    rank, and each LoRA's scaling goes into its head's B.

    Args:
        loras: {name: folder, or name of a repository on the hub}; the names become the tasks.
        output: the folder to write; it must not exist yet.
        gate: "own": each answers its own task. "uniform": their mean. "token": a router on x that starts at equal
            weights, so at their mean, to be trained on.

    Returns:
        The folder.

    Raises:
        UserError: fewer than two, no plain LoRA (DoRA, biases, modules trained whole, starts that change the base, and
            layers that are not linear are named), different bases or sizes, or a folder that exists.
    """
    if len(loras) < 2:
        raise UserError(f"assemble takes two LoRAs or more, got {len(loras)}")
    if gate not in ("own", "token", "uniform"):
        raise UserError(f"gate={gate!r} is not one of own, token, uniform")
    adapters = {name: AdapterFile(_folder(str(where))) for name, where in loras.items()}
    for adapter in adapters.values():
        _check_plain(adapter)
        adapter.check_values()
    _check_one_base(adapters)
    pairs = {
        name: {layer: adapter.formula(layer).factors() for layer in adapter.sizes} for name, adapter in adapters.items()
    }
    sizes = {layer: size for adapter in adapters.values() for layer, size in adapter.sizes.items()}
    rank = max(len(down) for of in pairs.values() for down, _ in of.values())
    tensors: dict[str, Tensor] = {}
    for layer, size in sizes.items():
        nothing = torch.zeros(0, size.d_in), torch.zeros(size.d_out, 0)
        heads = [_padded(*of.get(layer, nothing), rank) for of in pairs.values()]
        tensors[f"{PREFIX}{layer}.weave_A"] = torch.stack([down for down, _ in heads])
        tensors[f"{PREFIX}{layer}.weave_B"] = torch.stack([up for _, up in heads])
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
        base_model_name_or_path=first.base_model_name_or_path,
    )
    return write_adapter(Path(output), config, tensors)


def split(adapter: str | Path, output: str | Path) -> dict[str, Path]:
    """Write one plain PEFT LoRA for each task of an adapter that tells tasks apart, exactly.

    Every LoRA has one rank and an alpha equal to it, so its scaling is 1 whoever reads it.

    Args:
        adapter: the folder of an adapter of this package, such as one of `own`, or an assembled one.
        output: the folder to write the LoRAs' folders into, named after the tasks.

    Returns:
        The folder of each task's LoRA.

    Raises:
        UserError: no such adapter, one without tasks, one whose update depends on the input, or a folder that exists.
    """
    source = AdapterFile(Path(adapter))
    source.check_values()
    config: Any = source.config
    if not source.tasks:
        raise UserError(f"{adapter}: has one update for all tasks; `loraweave export --to lora` writes it as it is")
    if config.depends_on_input:
        raise UserError(f"{adapter}: weighs its heads by the input, so no task has a LoRA of its own")
    if source.others:
        raise UserError(f"{adapter}: {source.others[0]} is no low-rank update and cannot be divided among tasks")
    written = {}
    for number, task in enumerate(source.tasks):
        pairs = {layer: source.formula(layer).factors(number) for layer in source.sizes}
        rank = max(len(down) for down, _ in pairs.values())
        tensors = {}
        for layer, pair in pairs.items():
            down, up = _padded(*pair, rank)
            tensors[f"{PREFIX}{layer}.lora_A.weight"], tensors[f"{PREFIX}{layer}.lora_B.weight"] = down, up
        lora = LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=sorted(pairs),
            task_type=config.task_type,
            base_model_name_or_path=config.base_model_name_or_path,
        )
        written[task] = write_adapter(Path(output) / task.replace("/", "_"), lora, tensors)
    return written


def _folder(where: str) -> Path:
    """The folder of a LoRA, fetched from the hub where it is none."""
    if Path(where).exists() or where.startswith((".", "/")) or where.count("/") != 1:
        return Path(where)
    try:
        return Path(snapshot_download(where, allow_patterns=[NAME, WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: neither a folder nor to be had from the hub: {reason}") from error


def _check_plain(adapter: AdapterFile) -> None:
    """Raise UserError, naming what, for anything but low-rank updates of linear layers."""
    config: Any = adapter.config
    if not isinstance(config, LoraConfig):
        raise UserError(f"{adapter.folder}: an adapter of {config.method}, not a plain LoRA")
    starts = str(config.init_lora_weights)
    what = {
        "DoRA": config.use_dora,
        f"bias={config.bias!r}": config.bias != "none",
        "lora_bias": config.lora_bias,
        "modules_to_save": config.modules_to_save,
        "layer_replication": config.layer_replication,
        "target_parameters": config.target_parameters,
        f"init_lora_weights={starts!r}, which changes the base,": starts.startswith(_CHANGES_BASE),
        f"{adapter.others[0] if adapter.others else ''}, which belongs to no linear layer,": adapter.others,
    }
    for name, there in what.items():
        if there:
            raise UserError(f"{adapter.folder}: {name} cannot become a head; only plain LoRAs of linear layers can")


def _check_one_base(adapters: Mapping[str, AdapterFile]) -> None:
    """Raise UserError where two LoRAs name different bases or have a layer of different sizes."""
    first = next(iter(adapters.values()))
    for adapter in adapters.values():
        bases = first.config.base_model_name_or_path, adapter.config.base_model_name_or_path
        if all(bases) and bases[0] != bases[1]:
            raise UserError(f"{adapter.folder} is of the base {bases[1]}, {first.folder} of {bases[0]}")
        for layer, size in adapter.sizes.items():
            if layer in first.sizes and first.sizes[layer] != size:
                raise UserError(
                    f"{adapter.folder}: {layer} is {size.d_in} → {size.d_out}, in {first.folder} "
                    f"{first.sizes[layer].d_in} → {first.sizes[layer].d_out}: they are of different bases"
                )


def _padded(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """down (R, d_in) and up (d_out, R) with zeros to `rank`, in float32."""
    missing = rank - len(down)
    return pad(down, (0, 0, 0, missing)).float(), pad(up, (0, missing)).float()
