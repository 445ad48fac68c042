"""The updates that an adapter file holds, layer by layer: never the whole of it in memory."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor

from loraweave import lowrank
from loraweave.config import WeaveConfig
from loraweave.errors import UserError
from loraweave.lowrank import gates

WEIGHTS = "adapter_model.safetensors"
_WEAVE = re.compile(r"(?:base_model\.model\.)?(.+)\.(weave_\w+)")
_LORA = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?")

Factors = tuple[Tensor, Tensor]
"""lora_A (R, d_in) and lora_B (d_out, R) with ΔW = lora_B @ lora_A, in float64."""

Usage = Mapping[str, Tensor]
"""By layer, (K, N): the mean weight of each head on each task's tokens."""


@dataclass(frozen=True)
class Size:
    """Of an adapted layer."""

    d_out: int
    d_in: int


class AdapterFile:
    """The tensors and the configuration of one adapter, of this package or PEFT's own LoRA.

    Args:
        folder: written by PEFT's `save_pretrained`.

    Attributes:
        config: the PEFT configuration.
        sizes: of the adapted layers, by path in the base.
        skipped: tensors that belong to no low-rank update of a linear layer.
        parameters: numbers that were trained.

    Raises:
        UserError: no adapter there, one of another method, or one that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / WEIGHTS
        self.config = read_config(folder)
        if not self.path.is_file():
            raise UserError(f"{folder}: holds no weights ({WEIGHTS})")
        self._keys: dict[str, dict[str, str]] = {}
        self.sizes: dict[str, Size] = {}
        self.skipped: list[str] = []
        self.parameters = 0
        try:
            self._read_index()
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.path}: the adapter cannot be read: {error}") from error
        if not self.sizes:
            raise UserError(f"{self.path}: holds no low-rank update of any layer")

    def _read_index(self) -> None:
        shapes: dict[str, dict[str, list[int]]] = {}
        with safe_open(self.path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dictionary)
                shape = file.get_slice(key).get_shape()
                layer, name = self._parse(key)
                self.parameters += 0 if "anchor" in name else torch.Size(shape).numel()
                if layer:
                    self._keys.setdefault(layer, {})[name] = key
                    shapes.setdefault(layer, {})[name] = shape
                else:
                    self.skipped.append(key)
        for layer in sorted(shapes, key=natural):
            size = _size(shapes[layer])
            if size is None:
                self.skipped += self._keys.pop(layer).values()
            else:
                self.sizes[layer] = size

    def _parse(self, key: str) -> tuple[str, str]:
        """The layer and the tensor's name in it, in the terms of `lowrank`; ("", "") where it is no update's."""
        if isinstance(self.config, WeaveConfig):
            found = _WEAVE.fullmatch(key)
            return (found[1], found[2].removeprefix("weave_")) if found else ("", "")
        found = _LORA.fullmatch(key)
        return (found[1], found[2]) if found else ("", "")

    @property
    def tasks(self) -> list[str]:
        """The tasks that the adapter tells apart: one update for each; none where there is one update for all."""
        return list(self.config.task_names or ()) if self._needs_tasks else []

    @property
    def _needs_tasks(self) -> bool:
        return isinstance(self.config, WeaveConfig) and self.config.needs_tasks

    def tensors(self, layer: str) -> dict[str, Tensor]:
        """The layer's tensors in float64 under the names of `lowrank`, A (a, r, d_in) and B (N, d_out, r) among them.

        Raises:
            UserError: the file is damaged.
        """
        try:
            with safe_open(self.path, "pt") as file:
                found = {name: file.get_tensor(key).double() for name, key in self._keys[layer].items()}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.path}: the adapter cannot be read: {error}") from error
        return {name: value[None] if name in "AB" and value.ndim == 2 else value for name, value in found.items()}

    def scaling(self, layer: str, r: int) -> float:
        """s of a layer whose heads have rank r."""
        config: Any = self.config
        alpha = config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), layer), config.lora_alpha)
        return alpha / (r**0.5 if config.use_rslora else r)

    def task_weights(self, tensors: Mapping[str, Tensor]) -> Tensor | None:
        """(K, N), the gates of all tasks in a layer; None where heads are not weighed task by task."""
        if "task_logits" in tensors:
            assert isinstance(self.config, WeaveConfig)
            return gates.task_weights(tensors["task_logits"], self.config.temperature)
        if "task_gate" in tensors:
            return gates.embedding_weights(tensors["task_embedding"], tensors["task_gate"])
        return None

    def by_task(self, layer: str) -> list[tuple[str | None, Factors]]:
        """The layer's update for each task that it tells apart, in the order of their ids. Not for token routers."""
        tensors = self.tensors(layer)
        weights, transforms = self._weights_by_task(tensors), tensors.get("task_transform")
        return [
            (task, self._folded(layer, tensors, weights[k], None if transforms is None else transforms[k]))
            for k, task in enumerate(self.tasks)
        ]

    def mean(self, layer: str, usage: Usage) -> Factors:
        """The layer's update; its mean over tasks where they are told apart, and the update at mean weights of the
        heads, over tasks, where these depend on x.

        Args:
            layer: its path.
            usage: of the heads, for token routers; uniform in a layer that it does not have.
        """
        tensors = self.tensors(layer)
        heads = tensors["B"].shape[0]
        if isinstance(self.config, WeaveConfig) and self.config.depends_on_input:
            used = usage.get(layer)
            weights = tensors["B"].new_full((heads,), 1 / heads) if used is None else used.double().mean(0)
            return self._folded(layer, tensors, weights)
        weights = self._weights_by_task(tensors)
        transforms = tensors.get("task_transform")
        if transforms is None:
            return self._folded(layer, tensors, weights.mean(0))
        # Σ_t w_th B_h Λ_t A / K = B_h (Σ_t w_th Λ_t / K) A: the mean over tasks has no more rank than one task.
        mixed = torch.einsum("tn,trs->nrs", weights, transforms) / len(transforms)
        return self._folded(layer, {**tensors, "B": tensors["B"] @ mixed}, tensors["B"].new_ones(heads))

    def _weights_by_task(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """(K, N) scalar gates of the heads, or (1, N) where all tasks share them."""
        weights = self.task_weights(tensors)
        if weights is not None:
            return weights
        heads = tensors["B"].shape[0]
        uniform = isinstance(self.config, WeaveConfig) and self.config.gate == "uniform"
        return tensors["B"].new_full((max(1, len(self.tasks)), heads), 1 / heads if uniform else 1.0)

    def _folded(
        self, layer: str, tensors: Mapping[str, Tensor], weights: Tensor, transform: Tensor | None = None
    ) -> Factors:
        anchor = (tensors["anchor_A"], tensors["anchor_B"]) if "anchor_A" in tensors else None
        A, B = tensors["A"], tensors["B"]
        return lowrank.fold(
            A,
            B,
            weights=weights,
            channel=tensors.get("channel"),
            transform=transform,
            scaling=self.scaling(layer, A.shape[1]),
            anchor=anchor,
        )


def read_config(folder: Path) -> PeftConfig:
    """The configuration of the adapter in `folder`.

    Raises:
        UserError: there is none, it cannot be read, or its method is neither this package's nor PEFT's LoRA.
    """
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder}: holds neither a run nor an adapter (no run.yaml, no adapter_config.json)")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}: adapter_config.json cannot be read: {' '.join(str(error).split())}") from error
    if type(config) is not LoraConfig and not isinstance(config, WeaveConfig):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise UserError(f"{folder}: an adapter of the method {kind}; only LoRA and this package's can be analysed")
    return config


def natural(name: str) -> list[Any]:
    """A sorting key by which layers.2 comes before layers.10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split(".")]


def _size(shapes: Mapping[str, list[int]]) -> Size | None:
    """None for what is no pair of factors of a matrix, such as LoRA of a convolution."""
    A, B = shapes.get("A", []), shapes.get("B", [])
    if len(A) != len(B) or len(A) not in (2, 3) or A[-2] != B[-1]:
        return None
    return Size(d_out=B[-2], d_in=A[-1])
