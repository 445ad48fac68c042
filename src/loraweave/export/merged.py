"""Full weights: the base with the update added in float32, sharded and saved as transformers does it."""

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from loraweave.adapters.plain import PlainLora
from loraweave.bases import base_config, is_quantised, let_save
from loraweave.bases.gguf import SUFFIX, gguf_path, holds_rounded_weights
from loraweave.bases.older import write_for_older
from loraweave.bases.processors import copy_processors
from loraweave.errors import UserError, in_a_line
from loraweave.export.measure import told_task
from loraweave.export.source import Source
from loraweave.export.target import TOLERANCE, Work
from loraweave.export.variants import Variant
from loraweave.files import file_hash
from loraweave.runs.attaching import attach
from loraweave.tuner.merging import mergeable_weight, merged_weight

ROUNDED = 0.1
"""The tolerance where weights are rounded to half precision: enough to tell rounding from a mistake."""


def check(source: Source) -> None:
    """Raise UserError if the adapter is no fixed change of the base's weights, or the base's are quantised."""
    if source.routed and source.unfixed:
        raise UserError(
            f"{source.adapter.folder}: {source.unfixed}, and heads are weighed by the input: there is no merging both"
        )
    if getattr(source.adapter.config, "layer_replication", None):
        raise UserError(
            f"{source.adapter.folder}: layer_replication builds a base of other layers, which no merged model is "
            "written of: use the adapter as it is"
        )
    gguf = source.base.endswith(SUFFIX) and holds_rounded_weights(gguf_path(source.base, source.spec.revision))
    if gguf or source.spec.quantization is not None or is_quantised(base_config(source.spec)):
        raise UserError(
            f"{source.spec}: quantised, and merging would round the update away; name the unquantised base with --base"
        )


def write(work: Work, variant: Variant, plain: PlainLora | None, folder: Path) -> list[str]:
    """Write the merged model in the base's own dtype, with tokenizer, template and what a base that sees has beside
    them; returns how it was rounded, and what is missing."""
    dtype = own_dtype(work.source)
    with merged(work, variant, plain) as model:
        let_save(model)
        model.save_pretrained(str(folder), state_dict=rounded(model.state_dict(), dtype))
        config = copy.deepcopy(model.config)
    for part in (config, config.get_text_config()):
        part.dtype = dtype
    config.save_pretrained(str(folder))  # transformers writes the dtype of the model in memory
    work.tokenizer.save_pretrained(str(folder))
    write_for_older(folder)
    notes = copy_processors(work.base, work.source.spec, folder)
    beside = [each for each in folder.parent.iterdir() if each != folder] if variant.folder else []
    link_equal(folder, [Path(work.source.base), *beside])
    if dtype != torch.float32:
        notes.append(f"added in float32 and rounded to {str(dtype).removeprefix('torch.')}")
    return notes


def tolerance(source: Source) -> float:
    """The share of the largest logit by which what is read back may differ from the adapter."""
    return TOLERANCE if own_dtype(source) == torch.float32 else ROUNDED


@contextmanager
def merged(work: Work, variant: Variant, plain: PlainLora | None) -> Iterator[PreTrainedModel]:
    """The base with the update in its weights, in float32, for a while.

    Raises:
        UserError: a layer's weight is quantised, or not finite afterwards.
    """
    if plain is None:  # more than a change of linear layers: as PEFT merges it
        model = attach(copy.deepcopy(work.base), work.source.adapter.folder)
        with told_task(model, work.source, variant.task):
            yield _merged_by_peft(model, work.source.adapter.folder)
        return
    old: dict[str, nn.Parameter] = {}
    head, tied = work.base.get_output_embeddings(), work.base.config.tie_word_embeddings
    try:
        for path, (down, up) in plain.pairs.items():
            layer = work.base.get_submodule(path)
            if layer is head:  # which may share its weight with the embeddings, and from now on does not
                work.base.config.tie_word_embeddings = False
            weight = mergeable_weight(layer, path)
            change = (up @ down).T if _is_transposed(layer) else up @ down
            old[path] = weight
            layer.weight = merged_weight(weight, {"default": change.to(weight.device)}, path)
        yield work.base
    finally:
        work.base.config.tie_word_embeddings = tied
        for path, weight in old.items():
            work.base.get_submodule(path).weight = weight


@contextmanager
def running(work: Work, folder: Path) -> Iterator[PreTrainedModel]:
    """The model in a folder, in float32."""
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, trust_remote_code=work.source.trust_code
    )
    yield model.to(work.base.device).eval()


def own_dtype(source: Source) -> torch.dtype:
    """The dtype in which the base's weights are kept."""
    config = base_config(source.spec)  # of one that sees, the part for text may leave it to the whole
    found = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None) or torch.float32
    return found if isinstance(found, torch.dtype) else getattr(torch, str(found))


def rounded(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors in another dtype; those that were one stay one."""
    made: dict[tuple[int, torch.Size], Tensor] = {}
    found = {}
    for name, tensor in state.items():
        key = tensor.data_ptr(), tensor.shape
        if key not in made:
            made[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        found[name] = made[key]
    return found


def link_equal(folder: Path, others: Iterable[Path]) -> None:
    """Put a link in the place of every file of weights in a folder that one of some other folders has too, byte by
    byte. Others are copies: who saves a changed tokenizer or configuration into an export would change the base's."""
    there: dict[int, list[Path]] = {}
    for other in others:
        for path in other.glob("*.safetensors"):
            there.setdefault(path.stat().st_size, []).append(path)
    for path in sorted(folder.glob("*.safetensors")):
        same = next((p for p in there.get(path.stat().st_size, ()) if file_hash(p) == file_hash(path)), None)
        if same is None:
            continue
        link = path.with_name(f"{path.name}.link")
        try:
            os.link(same.resolve(), link)
        except OSError:  # another disk, or a file system without links
            continue
        os.replace(link, path)


def _merged_by_peft(model: PeftModel, folder: Path) -> PreTrainedModel:
    """The base with all of the adapter from a folder merged. A head that shares its weight with the embeddings parts
    from them, since what is merged into one of them may not be meant for the other, and shares it again where both
    have come out the same."""
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    tied = model.config.tie_word_embeddings
    if tied:
        head = _innermost(ends[1])
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    try:
        for end in ends:
            if isinstance(end, BaseTunerLayer) and isinstance(end.base_layer, AuxiliaryTrainingWrapper):
                # Single tokens below factors: PEFT would add those to a copy of the weight and let go of it.
                end.base_layer = end.base_layer.unload_and_optionally_merge_module(True, True, None)
        merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{folder}: PEFT cannot merge this adapter: {in_a_line(error)}") from error
    if tied:
        words, head = merged.get_input_embeddings(), merged.get_output_embeddings()
        merged.config.tie_word_embeddings = torch.equal(words.weight, head.weight)
        if merged.config.tie_word_embeddings:
            head.weight = words.weight
    return merged


def _innermost(module: Any) -> Any:
    """The base's own layer below all that PEFT has put around it."""
    while isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        module = module.base_layer if isinstance(module, BaseTunerLayer) else module.original_module
    return module


def _is_transposed(layer: nn.Module) -> bool:
    return not isinstance(layer, nn.Linear)  # transformers' Conv1D, the only other one that `mergeable_weight` takes
