"""Plain LoRAs from wherever: fetched, found to be no more than two factors for each linear layer, and of one base."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import LoraConfig

from loraweave.adapters.config import NAME, TOKENIZER, beyond_plain
from loraweave.adapters.file import WEIGHTS, AdapterFile, Size
from loraweave.adapters.write import BASE_RECORD
from loraweave.errors import UserError, in_a_line
from loraweave.files import read_json


def fetched(where: str) -> Path:
    """The folder of a LoRA, fetched from the hub where it is none.

    Raises:
        UserError: it cannot be had from there.
    """
    if Path(where).exists() or where.startswith((".", "/")) or where.count("/") != 1:
        return Path(where)
    try:
        return Path(snapshot_download(where, allow_patterns=[NAME, WEIGHTS, BASE_RECORD, *TOKENIZER]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = in_a_line(error)
        raise UserError(f"{where}: neither a folder nor to be had from the hub: {reason}") from error


def check_plain(adapter: AdapterFile, role: str) -> None:
    """Raise UserError, naming what, for anything but low-rank updates of linear layers; `role`: what they are to do."""
    config: Any = adapter.config
    if not isinstance(config, LoraConfig):
        way = "`loraweave export --to lora` makes one of it"
        if config.depends_on_input:
            way = "its heads are weighed by the input, so it is none"
        elif config.needs_tasks:
            way = "`loraweave split` makes one of it for each task"
        raise UserError(f"{adapter.folder}: an adapter of {config.method}, not a plain LoRA: {way}")
    odd = beyond_plain(config)
    if odd is None and adapter.others:
        odd = f"{adapter.others[0]}, a weight of the base itself (save with save_embedding_layers=False),"
        for name in adapter.others:
            if not name.endswith(".base_layer.weight"):  # PEFT saves those beside an embedding's own factors
                odd = f"{name}, which belongs to no linear layer,"
                break
    if odd is not None:
        raise UserError(f"{adapter.folder}: {odd} cannot {role}; only plain LoRAs of linear layers can")


def one_base(adapters: Iterable[AdapterFile]) -> tuple[str | None, str | None]:
    """The name of the base of several LoRAs, and its revision on the hub; None where none says it.

    Raises:
        UserError: two name different bases or revisions, or were trained on other weights, as far as that is known.
    """
    said: dict[str, tuple[str, Path]] = {}
    for adapter in adapters:
        record, config = adapter.folder / BASE_RECORD, adapter.config
        fingerprint = read_json(record).get("fingerprint") if record.is_file() else None
        own = {"base": config.base_model_name_or_path, "revision": config.revision, "fingerprint": fingerprint}
        for what, value in own.items():
            if value and value != said.setdefault(what, (value, adapter.folder))[0]:
                first, named = said[what]
                name = said["base"][0] if "base" in said else "NAME"
                raise UserError(
                    f"{adapter.folder} is of the {what} {value}, {named} of {first}; where these are the same: "
                    f"--base {name}"
                )
    base, revision = (said[what][0] if what in said else None for what in ("base", "revision"))
    return base, revision


def common_sizes(adapters: Iterable[AdapterFile]) -> dict[str, Size]:
    """The sizes of all layers that several LoRAs adapt, by path.

    Raises:
        UserError: two have a layer of different sizes, so they are of different bases; or they were trained on
            different classes of the base, which name its layers otherwise.
    """
    seen: dict[str, AdapterFile] = {}
    for adapter in adapters:
        for layer, size in adapter.sizes.items():
            other = seen.setdefault(layer, adapter)
            if other.sizes[layer] != size:
                raise UserError(
                    f"{adapter.folder}: {layer} is {size.d_in} → {size.d_out}, in {other.folder} "
                    f"{other.sizes[layer].d_in} → {other.sizes[layer].d_out}: they are of different bases"
                )
    for layer, adapter in seen.items():
        for place, letter in enumerate(layer):
            short = layer[place + 1 :] if letter == "." else ""
            inner = seen.get(short)
            if inner is not None and inner is not adapter and layer not in inner.sizes:
                raise UserError(
                    f"{adapter.folder} has a layer {layer}, {inner.folder} {short}: they were trained on different "
                    "classes of the base, so their layers cannot be told to be the same"
                )
    return {layer: adapter.sizes[layer] for layer, adapter in seen.items()}
