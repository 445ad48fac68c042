"""The ways in which a base's linear layers can be held in fewer bits, each by a library that is asked for by name."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers import BitsAndBytesConfig, QuantoConfig, TorchAoConfig

from loraweave.errors import UserError

QuantizationName = Literal[
    "nf4",
    "nf4-double",
    "fp4",
    "int8",
    "torchao-int8",
    "torchao-int8-dynamic",
    "torchao-float8",
    "quanto-int8",
    "quanto-int4",
]


@dataclass(frozen=True)
class Quantization:
    """One way.

    Attributes:
        library: that does it, as it is imported. package: as pip names it.
        bits: of a weight. scale: bytes of scales and offsets for each weight, beside its bits.
        settings: what transformers takes, for the type to compute in.
        own_type: its layers take inputs of the type that the base was loaded in alone, and autocast makes others.
    """

    library: str
    package: str
    bits: int
    scale: float
    settings: Callable[[torch.dtype], Any]
    own_type: bool = False

    @property
    def bytes(self) -> float:
        """Of a weight, in all."""
        return self.bits / 8 + self.scale


def _bitsandbytes_4(kind: str, twice: bool = False) -> Callable[[torch.dtype], Any]:
    def settings(dtype: torch.dtype) -> BitsAndBytesConfig:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,
            bnb_4bit_use_double_quant=twice,
            bnb_4bit_compute_dtype=dtype,
        )

    return settings


def _torchao(config: str) -> Callable[[torch.dtype], Any]:
    def settings(dtype: torch.dtype) -> TorchAoConfig:
        from torchao import quantization

        return TorchAoConfig(getattr(quantization, config)())

    return settings


def _quanto(weights: str) -> Callable[[torch.dtype], Any]:
    return lambda dtype: QuantoConfig(weights=weights)


_PACKS = "support_avx512bf16_for_cpu"  # of bitsandbytes' layers
_BLOCK = 4 / 64  # bitsandbytes: a scale of four bytes for every 64 weights
_BLOCK_TWICE = 1 / 64 + 4 / (64 * 256)  # of one byte, and one of four for every 256 of those
_GROUP = 8 / 128  # Quanto: a scale and an offset for every 128

QUANTIZATIONS: dict[str, Quantization] = {
    "nf4": Quantization("bitsandbytes", "bitsandbytes", 4, _BLOCK, _bitsandbytes_4("nf4")),
    "nf4-double": Quantization("bitsandbytes", "bitsandbytes", 4, _BLOCK_TWICE, _bitsandbytes_4("nf4", twice=True)),
    "fp4": Quantization("bitsandbytes", "bitsandbytes", 4, _BLOCK, _bitsandbytes_4("fp4")),
    "int8": Quantization("bitsandbytes", "bitsandbytes", 8, 0, lambda dtype: BitsAndBytesConfig(load_in_8bit=True)),
    "torchao-int8": Quantization("torchao", "torchao", 8, 0, _torchao("Int8WeightOnlyConfig")),
    "torchao-int8-dynamic": Quantization("torchao", "torchao", 8, 0, _torchao("Int8DynamicActivationInt8WeightConfig")),
    "torchao-float8": Quantization("torchao", "torchao", 8, 0, _torchao("Float8WeightOnlyConfig")),
    "quanto-int8": Quantization("optimum.quanto", "optimum-quanto", 8, 0, _quanto("int8"), own_type=True),
    "quanto-int4": Quantization("optimum.quanto", "optimum-quanto", 4, _GROUP, _quanto("int4"), own_type=True),
}
"""By the names that a run file gives them: those that transformers trains adapters on. A scale for a whole row of
weights is not counted."""
assert tuple(QUANTIZATIONS) == get_args(QuantizationName)


def missing_library(name: str) -> str | None:
    """What to install for a quantisation, in a line; None where it is there."""
    quantization = QUANTIZATIONS[name]
    try:
        found = importlib.util.find_spec(quantization.library)
    except ModuleNotFoundError:  # the package around it is not there either
        found = None
    if found is not None:
        return None
    return f"model.quantization {name} needs the package {quantization.package}: pip install 'loraweave[quantized]'"


def quantization_settings(name: str, dtype: torch.dtype) -> Any:
    """What transformers' `from_pretrained` takes as `quantization_config`.

    Args:
        name: of the quantisation.
        dtype: to compute in.

    Raises:
        UserError: its library is not installed, or refuses; says which to install.
    """
    if (missing := missing_library(name)) is not None:
        raise UserError(missing)
    try:
        return QUANTIZATIONS[name].settings(dtype)
    except (ImportError, AttributeError, RuntimeError) as error:
        package = QUANTIZATIONS[name].package
        raise UserError(
            f"model.quantization {name}: {package} cannot be used: {' '.join(str(error).split())}"
        ) from error


def keep_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes' 4-bit layers as they were loaded.

    On CPUs that compute in bfloat16 it would pack their weights anew at the first forward pass in evaluation mode: no
    gradient goes through such a layer any more, and the way back, which every saving takes, loses their scales.
    """
    for module in model.modules():
        if hasattr(module, _PACKS):
            setattr(module, _PACKS, False)
