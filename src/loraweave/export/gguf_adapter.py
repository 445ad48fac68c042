"""A plain LoRA as a GGUF file that llama.cpp puts beside a model with `--lora`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel

from loraweave.adapters.plain import PlainLora
from loraweave.bases import base_config
from loraweave.bases.gguf import import_gguf
from loraweave.errors import UserError
from loraweave.export import lora
from loraweave.export.gguf_shapes import Names, shape_of
from loraweave.export.source import Source
from loraweave.export.target import TOLERANCE, Work, check_plain
from loraweave.export.variants import Variant

NAME = "adapter.gguf"


def check(source: Source) -> None:
    """Raise UserError if llama.cpp's LoRA cannot hold what the adapter is, or the base is of a shape unknown here."""
    import_gguf()
    check_plain(source, "export --to gguf --merged instead")
    config = base_config(source.spec)
    names = Names(config)
    for layer in source.adapter.sizes:
        names.of(f"{layer}.weight")
    if "lm_head" in source.adapter.sizes and config.tie_word_embeddings:
        raise UserError(
            f"{source.adapter.folder}: lm_head is adapted, and in llama.cpp a base whose embeddings serve as its head "
            "has no such layer; export --to gguf --merged instead"
        )


def write(work: Work, variant: Variant, plain: PlainLora | None, folder: Path) -> list[str]:
    """Write adapter.gguf in float32."""
    assert plain is not None
    gguf, names = import_gguf(), Names(work.base.config)
    writer = gguf.GGUFWriter(folder / NAME, shape_of(work.base.config).architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(variant.task or work.source.method)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(plain.rank))  # llama.cpp divides it by the tensors' rank
    for layer, (down, up) in plain.pairs.items():
        weight = f"{layer}.weight"
        writer.add_tensor(f"{names.of(weight)}.lora_a", down.float().contiguous().cpu().numpy())
        writer.add_tensor(f"{names.of(weight)}.lora_b", names.laid_out(weight, up.float()).contiguous().cpu().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return []


def read(folder: Path, work: Work) -> PlainLora:
    """The plain LoRA in a folder's adapter.gguf, scaled as llama.cpp scales it."""
    reader, names = import_gguf().GGUFReader(folder / NAME), Names(work.base.config)
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    tensors = {t.name: torch.from_numpy(t.data.copy()).double() for t in reader.tensors}
    pairs = {}
    for name, weight in names.back(f"{layer}.weight" for layer in work.source.adapter.sizes).items():
        down, up = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        pairs[weight.removesuffix(".weight")] = down, names.taken_back(weight, up) * (alpha / len(down))
    rank = max(len(down) for down, _ in pairs.values())
    return PlainLora(pairs, rank, rank)


def tolerance(source: Source) -> float:
    """The share of the largest logit by which what is read back may differ from the adapter."""
    return TOLERANCE


@contextmanager
def running(work: Work, folder: Path) -> Iterator[PeftModel]:
    """The base with the adapter of a folder on it, as far as transformers can run it: by PEFT."""
    with tempfile.TemporaryDirectory() as aside:
        lora.write_lora(read(folder, work), Path(aside), work.base, work.source.spec)
        with lora.running(work, Path(aside)) as model:
            yield model
