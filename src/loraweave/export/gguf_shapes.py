"""How llama.cpp names and lays out the tensors of Llama-, Qwen- and Gemma-shaped models."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from loraweave.bases.gguf import import_gguf
from loraweave.errors import UserError


@dataclass(frozen=True)
class Shape:
    """One of llama.cpp's architectures.

    Attributes:
        architecture: its name there.
        permuted: rotary pairs lie beside each other in q and k, and not half a head apart as in transformers.
        norm_shift: what is added to the weights of norms, which transformers keep as their distance from 1.
        full_every: only every so many layers see everything, the others a window; 1 where all do.
        activations: of the MLP: names that transformers has for llama.cpp's one.
    """

    architecture: str
    permuted: bool = False
    norm_shift: float = 0.0
    full_every: int = 1
    activations: tuple[str, ...] = ("silu", "swish")


_GELU = ("gelu_pytorch_tanh", "gelu", "gelu_new", "gelu_fast", "gelu_accurate")  # a thousandth apart at most

SHAPES = {
    "llama": Shape("llama", permuted=True),
    "mistral": Shape("llama", permuted=True),
    "qwen2": Shape("qwen2"),
    "qwen3": Shape("qwen3"),
    "gemma": Shape("gemma", norm_shift=1.0, activations=_GELU),
    "gemma2": Shape("gemma2", norm_shift=1.0, full_every=2, activations=_GELU),
    "gemma3_text": Shape("gemma3", norm_shift=1.0, full_every=6, activations=_GELU),
}
"""By `model_type` of the base's configuration."""


def shape_of(config: PreTrainedConfig) -> Shape:
    """The architecture of a base; UserError where it is none of those that are known here."""
    if config.model_type not in SHAPES:
        raise unknown(f"a {config.model_type} base is not one of {', '.join(SHAPES)}")
    return SHAPES[config.model_type]


def unknown(what: str) -> UserError:
    """The error for a base that cannot be written, with the way out."""
    return UserError(f"--to gguf: {what}: export --to merged and take llama.cpp's own converter")


class Names:
    """A base's tensors under llama.cpp's names.

    Args:
        config: of the base.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        gguf = import_gguf()
        self.config = config
        self.shape = shape_of(config)
        number = next(n for n, name in gguf.MODEL_ARCH_NAMES.items() if name == self.shape.architecture)
        self._map: Any = gguf.get_tensor_name_map(number, config.num_hidden_layers)

    def of(self, tensor: str) -> str:
        """`model.layers.0.self_attn.q_proj.weight` -> `blk.0.attn_q.weight`; UserError for one that it has not."""
        name = self._map.get_name(tensor, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UserError(f"--to gguf: llama.cpp has no place for {tensor} in a {self.shape.architecture} model")
        return name

    def back(self, tensors: Iterable[str]) -> dict[str, str]:
        """The tensors by llama.cpp's names."""
        return {self.of(tensor): tensor for tensor in tensors}

    def laid_out(self, tensor: str, values: Tensor) -> Tensor:
        """A tensor as llama.cpp keeps it. values: (rows, …) of a weight, of a bias, or of a LoRA's second factor."""
        if (heads := self._rotated(tensor)) is not None:
            halves = values.unflatten(0, (heads, 2, -1))
            return halves.transpose(1, 2).reshape(values.shape)
        return values + self.shape.norm_shift if tensor.endswith("norm.weight") else values

    def taken_back(self, tensor: str, values: Tensor) -> Tensor:
        """What `laid_out` was given."""
        if (heads := self._rotated(tensor)) is not None:
            pairs = values.unflatten(0, (heads, -1, 2))
            return pairs.transpose(1, 2).reshape(values.shape)
        return values - self.shape.norm_shift if tensor.endswith("norm.weight") else values

    def _rotated(self, tensor: str) -> int | None:
        """The number of heads of a tensor whose rows are rotated and lie otherwise there."""
        if not self.shape.permuted:
            return None
        if tensor.endswith(("q_proj.weight", "q_proj.bias")):
            return int(self.config.num_attention_heads)
        if tensor.endswith(("k_proj.weight", "k_proj.bias")):
            return int(self.config.num_key_value_heads)
        return None
