"""The change that full fine-tuning made to each weight: checkpoint minus base, one weight in memory at a time."""

from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loraweave.adapters.file import Size, natural
from loraweave.analysis.spectra import Decomposition, decompose_dense
from loraweave.analysis.subspaces import MOST
from loraweave.bases import BaseName, BaseSpec, device, empty_base, resolve_base
from loraweave.bases.gguf import SUFFIX
from loraweave.errors import UserError, first_line

_DOUBTFUL = 0.5


class WeightFiles:
    """The tensors of a model in safetensors files, read one at a time.

    Args:
        model: "nano", a folder, or a name on the hub; or a specification.

    Raises:
        UserError: no such model, or no safetensors files in it.
    """

    def __init__(self, model: BaseName) -> None:
        self.folder = _folder_of(model)
        self._files: dict[str, Path] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name.startswith("adapter_"):
                continue
            try:
                with safe_open(path, "pt") as file:
                    self._files |= dict.fromkeys(file.keys(), path)
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: the weights cannot be read: {error}") from error
        if not self._files:
            raise UserError(f"{self.folder}: holds no safetensors files, which an analysis reads weight by weight")

    def find(self, *names: str) -> str | None:
        """The first of these names that there is a tensor of."""
        return next((name for name in names if name in self._files), None)

    def shape(self, name: str) -> torch.Size:
        with safe_open(self._files[name], "pt") as file:
            return torch.Size(file.get_slice(name).get_shape())

    def get(self, name: str) -> Tensor:
        with safe_open(self._files[name], "pt") as file:
            return file.get_tensor(name)


class FullUpdate:
    """ΔW of every linear layer of a fully fine-tuned model, its language-model head left out.

    Args:
        checkpoint: the fine-tuned model's folder. base: what it was trained from, by name or folder.

    Attributes:
        sizes: of the layers, by path.
        missing: linear layers whose weights are not found, in one of the two, under their name.
        others: weights within the blocks that belong to no linear layer, such as experts' and routers'.
        doubtful: layers looked at that changed by half of their weight's norm or more, as no fine-tuning does.
        parameters: numbers in the checkpoint.

    Raises:
        UserError: either cannot be read, or no weight is in both.
    """

    tasks: tuple[str, ...] = ()

    def __init__(self, checkpoint: str | Path, base: BaseName, trust_code: bool = False) -> None:
        self.after, self.before = WeightFiles(str(checkpoint)), WeightFiles(base)
        model = empty_base(str(checkpoint), trust_code)
        head = model.get_output_embeddings()
        self._keys: dict[str, tuple[str, str]] = {}
        self._transposed: set[str] = set()
        self.sizes: dict[str, Size] = {}
        self.missing: list[str] = []
        self.others = [*_of_no_linear_layer(model)]
        self.doubtful: list[str] = []
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        for layer in sorted((n for n, module in model.named_modules() if _is_linear(module, head)), key=natural):
            # A checkpoint of the backbone alone, as some on the hub are, leaves its prefix out.
            short = layer.removeprefix(f"{model.base_model_prefix}.")
            found = [files.find(f"{layer}.weight", f"{short}.weight") for files in (self.after, self.before)]
            if found[0] is None or found[1] is None:
                self.missing.append(layer)
                continue
            shape, original = self.after.shape(found[0]), self.before.shape(found[1])
            if shape != original:
                raise UserError(
                    f"{checkpoint}: {layer} is {tuple(shape)}, in the base {base} it is {tuple(original)}: "
                    "not fine-tuned from this base"
                )
            if isinstance(model.get_submodule(layer), Conv1D):
                self._transposed.add(layer)
                shape = shape[::-1]
            self._keys[layer] = found[0], found[1]
            self.sizes[layer] = Size(*shape)
        if not self.sizes:
            raise UserError(f"{checkpoint}: none of its linear layers is found in the base {base} by name")

    def change(self, layer: str) -> Tensor:
        """ΔW (d_out, d_in), float32."""
        after, before = self._keys[layer]
        original = self.before.get(before).float()
        change = self.after.get(after).float() - original
        if float(change.norm()) >= _DOUBTFUL * float(original.norm()) and layer not in self.doubtful:
            self.doubtful.append(layer)
        return change.T if layer in self._transposed else change

    def decomposed(self, layer: str) -> Decomposition:
        """All singular values of ΔW and the leading singular vectors."""
        found = decompose_dense(self.change(layer).to(device()), MOST)
        return Decomposition(found.values.cpu(), found.left.cpu(), found.right.cpu(), found.scale)


def _of_no_linear_layer(model: nn.Module) -> Iterator[str]:
    """Matrices, and stacks of them, in other modules than linear layers and embeddings."""
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, Conv1D, nn.Embedding)):
            yield from (f"{name}.{key}" for key, weight in module.named_parameters(recurse=False) if weight.ndim > 1)


def _is_linear(module: nn.Module, head: nn.Module | None) -> bool:
    return isinstance(module, (nn.Linear, Conv1D)) and module is not head


def _folder_of(model: BaseName) -> Path:
    spec = BaseSpec.of(model)
    if spec.name.lower().endswith(SUFFIX):
        raise UserError(
            f"{spec.name}: a GGUF file, and what full fine-tuning changed is read weight by weight from safetensors: "
            "name the folder of the model that it was made from with --base"
        )
    source = Path(resolve_base(spec))
    if source.is_dir():
        return source
    try:
        return Path(snapshot_download(spec.name, revision=spec.revision, allow_patterns=["*.safetensors", "*.json"]))
    except (OSError, ValueError) as error:
        raise UserError(f"model {spec.name!r} is neither a folder nor found on the hub: {first_line(error)}") from error
