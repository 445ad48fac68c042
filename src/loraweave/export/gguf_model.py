"""A merged model as a GGUF file that llama.cpp runs by itself."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from loraweave.adapters.plain import PlainLora
from loraweave.bases import base_config, load_tokenizer
from loraweave.bases.gguf import import_gguf
from loraweave.errors import UserError
from loraweave.export import merged
from loraweave.export.gguf_shapes import Names, Shape, shape_of, unknown
from loraweave.export.gguf_vocab import add_vocabulary, check_tokenizer
from loraweave.export.source import Source
from loraweave.export.target import Work
from loraweave.export.variants import Variant
from loraweave.paths import UNFINISHED

NAME = "model.gguf"
HEAD = "output.weight"
"""llama.cpp's name of the head; a model without it takes its embeddings."""


def check(source: Source) -> None:
    """Raise UserError if the adapter cannot be merged, or the base is of a shape, or has positions or a tokenizer,
    unknown here."""
    import_gguf()
    merged.check(source)
    check_config(base_config(source.spec))
    check_tokenizer(load_tokenizer(source.spec))


def check_config(config: Any) -> None:
    """Raise UserError for what llama.cpp takes for granted in a shape and a base has otherwise."""
    shape, ropes = shape_of(config), _ropes(config)
    for rope in ropes:
        if (kind := rope.get("rope_type", "default")) not in ("default", "linear", "llama3"):
            raise unknown(f"positions of the kind {kind!r} are not known here")
    activation = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
    if activation not in shape.activations:
        raise UserError(
            f"--to gguf: the base's activation is {activation!r}, and llama.cpp computes a {shape.architecture} model "
            f"with {shape.activations[0]}: export --to merged"
        )
    if shape.full_every > 1:
        wanted = [
            "full_attention" if (number + 1) % shape.full_every == 0 else "sliding_attention"
            for number in range(config.num_hidden_layers)
        ]
        if config.layer_types != wanted:
            raise unknown(f"llama.cpp has every layer but each {shape.full_every}th see a window, and this base not")
        if getattr(config, "query_pre_attn_scalar", config.head_dim) != config.head_dim:
            raise unknown("query_pre_attn_scalar is not the size of a head")
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    if shape.architecture == "gemma2" and (without := [cap for cap in caps if getattr(config, cap) is None]):
        raise unknown(
            f"llama.cpp caps what a gemma2 model computes where nothing is said, and here {without[0]} is null"
        )
    if len(ropes) > 1 and ropes[1].get("rope_theta", 10000.0) != 10000.0:
        raise unknown("layers with a window turn positions by another base than 10,000")


def write(work: Work, variant: Variant, plain: PlainLora | None, folder: Path) -> list[str]:
    """Write model.gguf in the base's own dtype, norms and biases in float32; returns how it was rounded, and what
    llama.cpp does otherwise."""
    gguf, config, dtype = import_gguf(), work.base.config, merged.own_dtype(work.source)
    names = Names(config)
    writer = gguf.GGUFWriter(folder / NAME, names.shape.architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(variant.task or folder.name.removesuffix(f".{UNFINISHED}"))
    _add_sizes(writer, config, names.shape)
    writer.add_file_type(_file_types(gguf)[dtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    with tempfile.TemporaryDirectory() as aside:
        work.tokenizer.save_pretrained(aside)
        add_vocabulary(writer, work.tokenizer, work.base.get_input_embeddings().num_embeddings, Path(aside))
    with merged.merged(work, variant, plain) as model:
        for name, tensor in _own_tensors(model).items():
            _add(writer, names.of(name), names.laid_out(name, tensor.float()), dtype)
        if (factors := _rope_factors(config)) is not None:
            writer.add_tensor("rope_freqs.weight", factors.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    notes = _beyond_window(config, names.shape)
    if dtype != torch.float32:
        notes.append(f"added in float32 and rounded to {str(dtype).removeprefix('torch.')}")
    return notes


def tolerance(source: Source) -> float:
    """The share of the largest logit by which what is read back may differ from the adapter."""
    return merged.tolerance(source)


@contextmanager
def running(work: Work, folder: Path) -> Iterator[PreTrainedModel]:
    """The tensors of a folder's model.gguf in a model of the base's configuration: transformers reads such files too,
    but not all of what they say."""
    reader, names = import_gguf().GGUFReader(folder / NAME), Names(work.base.config)
    model = AutoModelForCausalLM.from_config(work.base.config, dtype=torch.float32)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if HEAD in tensors and model.config.tie_word_embeddings:
        model.get_output_embeddings().weight = nn.Parameter(model.get_output_embeddings().weight.detach().clone())
        model.config.tie_word_embeddings = False
    state = {}
    for name, own in names.back(_own_tensors(model)).items():
        values = import_gguf().quants.dequantize(tensors[name].data, tensors[name].tensor_type)
        state[own] = names.taken_back(own, torch.from_numpy(values.copy()))
    if HEAD not in tensors and model.get_output_embeddings() is not None:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    yield model.to(work.base.device).eval()


def _beyond_window(config: Any, shape: Shape) -> list[str]:
    """What is to be said of layers that see a window, where llama.cpp has none in such a model."""
    window = getattr(config, "sliding_window", None)
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    if shape.full_every > 1 or not (sliding and window and window < config.max_position_embeddings):
        return []
    return [f"llama.cpp knows no window here: beyond {window:,} tokens it sees more than the base's layers do"]


def _own_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """The tensors of a model, without a head that is its embeddings."""
    tied = model.config.tie_word_embeddings
    return {name: value for name, value in model.state_dict().items() if not (tied and name == "lm_head.weight")}


def _file_types(gguf: Any) -> dict[torch.dtype, int]:
    kinds = gguf.LlamaFileType
    return {torch.float32: kinds.ALL_F32, torch.float16: kinds.MOSTLY_F16, torch.bfloat16: kinds.MOSTLY_BF16}


def _add(writer: Any, name: str, values: Tensor, dtype: torch.dtype) -> None:
    gguf = import_gguf()
    values = values.detach().contiguous().cpu()
    if values.ndim < 2 or dtype == torch.float32:
        writer.add_tensor(name, values.numpy())
    elif dtype == torch.float16:
        writer.add_tensor(name, values.half().numpy())
    else:
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quants.quantize(values.numpy(), kind), raw_dtype=kind)


def _add_sizes(writer: Any, config: Any, shape: Shape) -> None:
    """Everything about the architecture that is not in the tensors' shapes."""
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(size)
    writer.add_value_length(size)
    if shape.permuted:
        writer.add_rope_dimension_count(size)
    rope = _ropes(config)[0]
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(import_gguf().RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if shape.full_every > 1:
        writer.add_sliding_window(config.sliding_window)
    for field, add in (
        ("attn_logit_softcapping", writer.add_attn_logit_softcapping),
        ("final_logit_softcapping", writer.add_final_logit_softcapping),
    ):
        if getattr(config, field, None) is not None:
            add(float(getattr(config, field)))


def _ropes(config: Any) -> list[dict[str, Any]]:
    """How positions are turned: of the layers that see everything first."""
    found = getattr(config, "rope_parameters", None) or {}
    if "full_attention" in found:
        return [found["full_attention"], *(each for kind, each in found.items() if kind != "full_attention")]
    return [found]


def _rope_factors(config: Any) -> Tensor | None:
    """What llama.cpp divides the frequencies of Llama 3's long contexts by; None for others."""
    rope = _ropes(config)[0]
    if rope.get("rope_type") != "llama3":
        return None
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    waves = 2 * math.pi * rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    context, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((context / waves - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - smooth) / factor + smooth)
