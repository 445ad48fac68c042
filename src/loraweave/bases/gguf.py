"""A GGUF file as a base: llama.cpp's format, which transformers unpacks into ordinary weights."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from loraweave.errors import UserError, nearest

SUFFIX = ".gguf"


def import_gguf(what: str = "--to gguf") -> Any:
    """The `gguf` package.

    Args:
        what: needs it, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UserError(f"{what} needs the package gguf: pip install 'loraweave[gguf]'") from error
    return gguf


def existing_gguf(path: Path) -> Path:
    """A path that ends in .gguf, if a file is there; else UserError with the nearest name in its folder."""
    if path.is_file():
        return path
    beside = [each.name for each in path.parent.glob(f"*{SUFFIX}")] if path.parent.is_dir() else []
    raise UserError(f"{path}: no such file, so no base model can be loaded from it{nearest(path.name, beside)}")


def holds_rounded_weights(path: Path) -> bool:
    """Whether a GGUF file keeps weights in fewer bits than a half-precision number has."""
    gguf = import_gguf(f"{path}: a GGUF base")
    kinds = gguf.GGMLQuantizationType
    whole = {kinds.F64, kinds.F32, kinds.F16, kinds.BF16}
    return any(tensor.tensor_type not in whole for tensor in gguf.GGUFReader(path).tensors)


def as_plain_model(model: PreTrainedModel, path: str) -> None:
    """Let a model that was unpacked from a GGUF file be what it is, a plain one: transformers marks it as quantised and
    would neither train nor save it, and names it after the folder."""
    for name in ("hf_quantizer", "quantization_method"):
        model.__dict__.pop(name, None)
    model.is_quantized = False
    model.config.__dict__.pop("quantization_config", None)
    model.name_or_path = model.config.name_or_path = path  # PEFT records the first
