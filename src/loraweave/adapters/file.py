"""The folder of a trained adapter, read in one place: its configuration and its tensors, checked, layer by layer."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from torch import Tensor

from loraweave.adapters.config import read_config
from loraweave.adapters.fields import check_expressions
from loraweave.adapters.tensors import FROZEN, MASK, first_values, rank_and_alpha, scaling_of
from loraweave.config import WeaveConfig
from loraweave.errors import UserError
from loraweave.lowrank.formula import Formula, formula_of
from loraweave.lowrank.gates import Gate

WEIGHTS = "adapter_model.safetensors"
_WEAVE = re.compile(r"(?:base_model\.model\.)?(.+)\.(weave_\w+)")
_LORA = re.compile(r"(?:base_model\.model\.)?(.+)\.(lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.weight)?")
VOCABULARY = frozenset({"embed_tokens", "lm_head", "wte", "trainable_tokens_delta"})
"""Parts of a tensor's name by which PEFT saves embeddings and heads, asked for or not."""
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Size:
    """Of an adapted layer: d_out × d_in."""

    d_out: int
    d_in: int


class AdapterFile:
    """The tensors and the configuration of one adapter, of this package or PEFT's own LoRA.

    What is in the file is compared with what its configuration asks for when it is opened; values are read, and found
    to be numbers, layer by layer when they are asked for. The file is opened once.

    Args:
        folder: written by PEFT's `save_pretrained`.

    Attributes:
        folder: as given.
        config: the PEFT configuration.
        sizes: of the adapted layers, by path in the base, in the order of their numbers.
        others: names of tensors that belong to no low-rank update of a linear layer: modules that were trained whole,
            biases, DoRA's magnitudes, LoRA of a convolution or of an embedding.

    Raises:
        UserError: no adapter there, one of another method, one that cannot be read, or tensors that are missing,
            unexpected, of another shape than the configuration says, or no floating-point numbers; named.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / WEIGHTS
        self.config = read_config(folder)
        if not self.path.is_file():
            pickled = " (adapter_model.bin is a pickle, which may run code and is never read)"
            instead = pickled if (folder / "adapter_model.bin").exists() else ""
            raise UserError(f"{folder}: holds no weights ({WEIGHTS}){instead}")
        self.sizes: dict[str, Size] = {}
        self.others: list[str] = []
        self._stored = 0  # numbers, without frozen tensors
        self._keys: dict[str, dict[str, str]] = {}
        try:
            self._file = safe_open(self.path, "pt")
            self._shapes, self._dtypes = self._index()
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.path}: the adapter cannot be read: {error}") from error
        check_expressions(self.config, self._shapes, f"{folder}: adapter_config.json")
        self._sort()
        if not self.sizes and not self.others:
            raise UserError(f"{self.path}: holds no low-rank update of any layer")

    def _index(self) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
        slices = {key: self._file.get_slice(key) for key in self._file.keys()}  # noqa: SIM118 (not a dictionary)
        return {k: tuple(s.get_shape()) for k, s in slices.items()}, {k: s.get_dtype() for k, s in slices.items()}

    def _sort(self) -> None:
        """Which tensor is what, and whether all is there and fits."""
        weave = isinstance(self.config, WeaveConfig)
        frozen = FROZEN if getattr(self.config, "train_down", True) else (*FROZEN, "weave_A")
        unexpected: list[str] = []
        layers: dict[str, dict[str, str]] = {}
        for key, shape in self._shapes.items():
            if self._dtypes[key] not in (_FLOATS if not key.endswith(MASK) else {"BOOL"}):
                wanted = "truth values" if key.endswith(MASK) else "floating-point numbers"
                raise UserError(f"{self.path}: {key} holds {self._dtypes[key]}, not {wanted}")
            found = (_WEAVE if weave else _LORA).fullmatch(key)
            self._stored += 0 if found and found[2] in frozen else torch.Size(shape).numel()
            if found:
                layers.setdefault(found[1], {})[found[2]] = key
            elif self._may_be_beside(key):
                self.others.append(key)
            else:
                unexpected.append(key)
        if unexpected:
            kind = getattr(self.config.peft_type, "value", self.config.peft_type)
            raise UserError(
                f"{self.path}: {_some(unexpected)} unexpected: an adapter of the type {kind} has no such tensors"
            )
        for layer in sorted(layers, key=natural):
            (self._add_weave if weave else self._add_lora)(layer, layers[layer])

    def _may_be_beside(self, key: str) -> bool:
        """Whether PEFT saves such a tensor beside the updates: of modules trained whole, biases, embeddings."""
        config: Any = self.config
        whole = tuple(config.modules_to_save or ())  # PEFT takes every module whose path ends like that
        parts = key.split(".")
        trained_bias = getattr(config, "bias", "none") != "none" and parts[-1] == "bias"
        vocabulary = not VOCABULARY.isdisjoint(parts)
        lora_bias = bool(getattr(config, "lora_bias", False)) and key.endswith(".lora_B.bias")
        new_head = config.task_type in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
        trained_whole = any(".".join(parts[:end]).endswith(whole) for end in range(1, len(parts)))
        return trained_bias or lora_bias or vocabulary or new_head or trained_whole

    def _add_weave(self, layer: str, keys: dict[str, str]) -> None:
        config = self.config
        assert isinstance(config, WeaveConfig)
        for name in ("weave_A", "weave_B"):
            if name not in keys:
                raise UserError(f"{self.path}: {layer}.{name} is missing")
            if len(self._shapes[keys[name]]) != 3:
                raise UserError(f"{self.path}: {keys[name]} is {self._shapes[keys[name]]}, three dimensions are wanted")
        size = Size(d_out=self._shapes[keys["weave_B"]][1], d_in=self._shapes[keys["weave_A"]][2])
        with torch.device("meta"):
            wanted = first_values(config, layer, size.d_in, size.d_out)
        if missing := [name for name in wanted if name not in keys]:
            raise UserError(f"{self.path}: {layer}.{missing[0]} is missing, which {self._asks(missing[0])}")
        if surplus := [name for name in keys if name not in wanted]:
            raise UserError(
                f"{self.path}: {keys[surplus[0]]} is unexpected: the configuration "
                f"(gate={config.gate!r}, start={config.start!r}, task_transform={config.task_transform}) has no such"
            )
        for name, tensor in wanted.items():
            if self._shapes[keys[name]] != tuple(tensor.shape):
                raise UserError(
                    f"{self.path}: {keys[name]} is {self._shapes[keys[name]]}, by the configuration it should be "
                    f"{tuple(tensor.shape)}"
                )
        self.sizes[layer], self._keys[layer] = size, keys

    def _asks(self, tensor: str) -> str:
        config: Any = self.config
        knob = {"channel": "gate", "router": "gate", "anchor_A": "start", "anchor_B": "start"}.get(tensor[6:], "gate")
        knob = {"weave_task_transform": "task_transform", "weave_core": "up", MASK: "up_density"}.get(tensor, knob)
        return f"{knob}={getattr(config, knob)!r} asks for"

    def _add_lora(self, layer: str, keys: dict[str, str]) -> None:
        pair = [keys[name] for name in ("lora_A", "lora_B") if name in keys]
        if len(pair) == 1:
            there = "lora_A" if "lora_A" in keys else "lora_B"
            raise UserError(f"{self.path}: {layer} has {there} alone; the other factor is missing")
        A, B = (self._shapes[key] for key in pair) if pair else ((), ())
        of_experts = bool(getattr(self.config, "target_parameters", None))
        if len(A) != 2 or len(B) != 2 or of_experts:  # of a convolution, an embedding, or of experts' fused weights
            self.others += keys.values()
            return
        r = rank_and_alpha(self.config, layer)[0]
        if A[0] != B[1] or A[0] != r:
            raise UserError(
                f"{self.path}: {layer} has lora_A {A} and lora_B {B}, by the configuration their rank should be {r}"
            )
        self.others += [key for name, key in keys.items() if key not in pair]
        self.sizes[layer] = Size(d_out=B[0], d_in=A[1])
        self._keys[layer] = {"A": pair[0], "B": pair[1]}

    @property
    def names(self) -> dict[str, tuple[int, ...]]:
        """Every tensor by its full name in the file, with its shape."""
        return dict(self._shapes)

    @cached_property
    def parameters(self) -> int:
        """Numbers that were trained, without those of a sparse B that are held at zero."""
        masks = (keys[MASK] for keys in self._keys.values() if MASK in keys)
        return self._stored - sum(int((~self.tensor(key)).sum()) for key in masks)

    @property
    def tasks(self) -> list[str]:
        """The tasks that the adapter tells apart: one update for each; none where there is one update for all."""
        config = self.config
        return list(config.task_names or ()) if isinstance(config, WeaveConfig) and config.needs_tasks else []

    def key(self, layer: str, name: str) -> str:
        """The full name in the file of a layer's tensor: `weave_B` and the like, or "A" and "B" of PEFT's LoRA."""
        return self._keys[layer][name]

    def tensors(self, layer: str) -> dict[str, Tensor]:
        """The layer's tensors in float64 by their names without `weave_`: A (a, r, d_in), B (N, d_out, r) and others.

        Raises:
            UserError: the file is damaged, or a tensor holds something else than numbers.
        """
        found = {name.removeprefix("weave_"): self.tensor(key).double() for name, key in self._keys[layer].items()}
        return {name: value[None] if name in "AB" and value.ndim == 2 else value for name, value in found.items()}

    def tensor(self, key: str) -> Tensor:
        """One tensor by its full name in the file, `key`; any shape, in its own dtype.

        Raises:
            UserError: the file is damaged, or the tensor is not finite.
        """
        try:
            found: Tensor = self._file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.path}: the adapter cannot be read: {error}") from error
        if not torch.isfinite(found).all():
            bad = int((~torch.isfinite(found)).sum())
            raise UserError(f"{self.path}: {key} holds {bad:,} values that are NaN or infinite")
        return found

    def check_values(self) -> None:
        """Read every tensor once; UserError naming the first that is damaged or not finite."""
        for key in self._shapes:
            self.tensor(key)

    def formula(self, layer: str) -> Formula:
        """The layer's update as a value, in float64.

        Raises:
            UserError: as `tensors`.
        """
        config: Any = self.config
        tensors = self.tensors(layer)
        rank, alpha = rank_and_alpha(config, layer)
        scaling = scaling_of(alpha, rank, config.use_rslora)
        if isinstance(config, LoraConfig):
            return Formula(tensors["A"], tensors["B"], Gate(), scaling=scaling)
        return formula_of(config, tensors, scaling)

    def check_fits(self, layers: dict[str, Size]) -> None:
        """Compare with the layers of a base that the configuration's targets name.

        Args:
            layers: by path, the size of every layer that was adapted in the base.

        Raises:
            UserError: a layer without tensors in the file, tensors for a layer that is not there, or another size.
        """
        if missing := [layer for layer in layers if layer not in self.sizes]:
            raise UserError(f"{self.path}: {_some(missing)} missing: the base has such layers, the adapter has not")
        if surplus := [layer for layer in self.sizes if layer not in layers]:
            raise UserError(f"{self.path}: {_some(surplus)} unexpected: the base has no such layers to adapt")
        for layer, size in self.sizes.items():
            if size != layers[layer]:
                raise UserError(
                    f"{self.path}: {layer} is {size.d_in} → {size.d_out}, in the base "
                    f"{layers[layer].d_in} → {layers[layer].d_out}: it was trained on another base"
                )


def natural(name: str) -> list[Any]:
    """A sorting key by which layers.2 comes before layers.10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split(".")]


def _some(names: list[str]) -> str:
    """The first of several names, and how many more there are."""
    return f"{names[0]} is" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more are"
