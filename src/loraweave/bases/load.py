"""Load a causal language model and its tokenizer, and say in one line what is missing when that cannot be done."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from huggingface_hub import constants as hub_settings
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.quantization_config import GgufConfig

from loraweave.adapters.config import NAME as ADAPTER_CONFIG
from loraweave.bases.causal import check_causal
from loraweave.bases.gguf import SUFFIX, as_plain_model, check_gguf, existing_gguf, import_gguf
from loraweave.bases.identity import keep_samples
from loraweave.bases.quantization import keep_unpacked, quantization_settings
from loraweave.bases.spec import BaseName, BaseNotHereError, BaseSpec
from loraweave.bases.vocabulary import check_vocabulary, fill_padding
from loraweave.errors import UserError, shown
from loraweave.files import read_json
from loraweave.paths import inside, user_path
from loraweave.quiet import quiet_libraries, without_bars

Base = tuple[PreTrainedModel, PreTrainedTokenizerBase]
"""A base model and its tokenizer."""

EMBEDDED = Path(__file__).parent / "nano"

_LARGEST = {
    "vocab_size": 2**24,
    "hidden_size": 2**20,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**16,
    "num_key_value_heads": 2**16,
    "head_dim": 2**16,
}

NEEDS_TRUST = (
    "the model comes with Python code of its own, which would run: read it, and if you trust it, add --trust-code "
    "(or `trust_code: true` to your own run file)"
)
_ADAPTED = (
    "holds an adapter beside the model (adapter_config.json), which transformers would put on it: which of the two is "
    "the base cannot be told. Move the adapter to a folder of its own; method: {adapter: FOLDER} trains it on"
)
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class OutOfReachError(BaseNotHereError):
    """A base can only be on the hub, which cannot be asked, so that nothing is known of it here."""


def load_base(name: BaseName, dtype: str | None = None, trust_code: bool = False) -> Base:
    """Load a base model and its tokenizer, with a padding token.

    Args:
        name: "nano", a folder written by `save_pretrained`, a .gguf file, a name on the hub; or a `BaseSpec`, which
            says how it is loaded too.
        dtype: of the weights, in the place of what a specification says: "auto" (bfloat16 on a GPU that computes in it,
            else float32), "float32", "bfloat16" or "float16".
        trust_code: run Python code that comes with the model (`auto_map` in its files).

    Returns:
        The model, in evaluation mode, and the tokenizer. It is on the CPU, or, where its weights are quantised, on the
        GPU of this process if there is one.

    Raises:
        UserError: the folder lacks its config, weights or tokenizer; the name is neither a folder nor within reach on
            the hub; a library that it needs is not installed; it is no causal model; or an adapter lies with it.
    """
    spec = BaseSpec.of(name, trust_code)
    source = resolve_base(spec)
    torch_dtype = pick_dtype(dtype or spec.dtype)
    if Path(source).is_dir():
        check_folder(Path(source))
    # The config first: where the name is wrong or the hub out of reach, this says so at once.
    config = base_config(spec)
    model, loaded = _from_hub_or_folder(
        AutoModelForCausalLM,
        spec,
        config=config,
        dtype=torch_dtype,
        ignore_mismatched_sizes=True,  # told below, in one line
        output_loading_info=True,
        **_ways(spec, config, torch_dtype),
    )
    if source.endswith(SUFFIX):
        as_plain_model(model, source)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(f"{source}: {_ADAPTED}")
    _check_complete(loaded, source)
    check_causal(model, source)
    if is_quantised(model.config):
        keep_samples(model, *_hub_or_folder(spec))
        keep_unpacked(model)
    tokenizer = load_tokenizer(spec)
    check_vocabulary(model, tokenizer, source)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def let_save(model: Any) -> None:
    """Let transformers save the whole model though its base's generation_config contradicts itself (a temperature
    beside `do_sample: false`): it does so with one that is as it was published, and refuses where tokens for padding or
    for the end were changed since, after a whole training."""
    how = getattr(model, "generation_config", None)
    if how is not None:
        how._original_object_hash = hash(how)


def is_quantised(config: PreTrainedConfig) -> bool:
    """Whether the weights behind a configuration are held in fewer bits than they compute in."""
    return getattr(config, "quantization_config", None) is not None


def _check_way(spec: BaseSpec, config: PreTrainedConfig) -> None:
    """Raise UserError where a base cannot be loaded as a specification wants it, whatever is installed."""
    source = resolve_base(spec)
    if spec.revision is not None and Path(source).exists():
        raise UserError(
            f"model.revision {spec.revision}: {source} lies on this machine, and only the hub has revisions"
        )
    attention = getattr(config, "_attn_implementation", None)
    if isinstance(attention, str) and "/" in attention and spec.attn is None and not spec.trust_code:
        raise UserError(
            f"{source}: config.json computes attention by {shown(attention)}, code of the hub, which would run: name "
            "another way as model.attn, or if you trust it, add --trust-code (or `trust_code: true` to your run file)"
        )
    if spec.quantization is None:
        return
    if source.endswith(SUFFIX):
        raise UserError(
            f"model.quantization {spec.quantization}: {source} is a GGUF file, which is unpacked and not quantised "
            "again: leave quantization out, or name the model that the file was made from"
        )
    if is_quantised(config):
        raise UserError(
            f"model.quantization {spec.quantization}: the weights of {source} are quantised already: leave it out"
        )


def _ways(spec: BaseSpec, config: PreTrainedConfig, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is told of how a base is loaded."""
    ways: dict[str, Any] = {} if spec.attn is None else {"attn_implementation": spec.attn}
    if spec.quantization is not None:
        ways["quantization_config"] = quantization_settings(spec.quantization, dtype)
    elif resolve_base(spec).endswith(SUFFIX):  # else it may be left in its blocks, which cannot be trained on
        ways["quantization_config"] = GgufConfig(dequantize=True)
    if spec.quantization is not None or is_quantised(config):
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
        ways["device_map"] = {"": device}
    return ways


def base_config(name: BaseName, trust_code: bool = False) -> PreTrainedConfig:
    """The configuration alone, without weights.

    Raises:
        UserError: as `load_base`, except that no weights are needed.
    """
    spec = BaseSpec.of(name, trust_code)
    source = resolve_base(spec)
    if source.endswith(SUFFIX):
        import_gguf(f"{source}: a GGUF base")
        if Path(source).is_file():
            check_gguf(Path(source))
    if Path(source).is_dir():  # as it is written: a configuration made of it may fail on a size in words of its own
        written = read_json(Path(source) / "config.json")
        text = written.get("text_config")
        _check_sizes(text if isinstance(text, dict) else written, source)
    config = _from_hub_or_folder(AutoConfig, spec)
    _check_sizes(config.get_text_config().to_dict(), source)
    _check_way(spec, config)
    return config


def empty_base(name: BaseName, trust_code: bool = False) -> PreTrainedModel:
    """The same architecture on the meta device: shapes without weights, for counting parameters.

    Its layers are plain ones, also where a specification quantises them.

    Raises:
        UserError: as `load_base`, except that no weights are needed.
    """
    spec = BaseSpec.of(name, trust_code)
    config = base_config(spec)
    with _told(spec), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=spec.trust_code)
    check_causal(model, resolve_base(spec))
    return model


def load_tokenizer(name: BaseName, trust_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a base, with a padding token.

    Raises:
        UserError: as `load_base`, for the tokenizer alone.
    """
    spec = BaseSpec.of(name, trust_code)
    tokenizer = _from_hub_or_folder(AutoTokenizer, spec)
    fill_padding(tokenizer, spec.name)
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float):
        raise UserError(f"{spec.name}: model_max_length of the tokenizer must be a number, got {shown(longest)}")
    return tokenizer


def resolve_base(name: BaseName) -> str:
    """The folder or the .gguf file behind `name`, or the name itself where it can only be one on the hub."""
    written = name.name if isinstance(name, BaseSpec) else str(name)
    if written == "nano":
        if not (EMBEDDED / "config.json").is_file():
            raise UserError(f"the base 'nano' is not in this installation ({EMBEDDED} is missing)")
        return str(EMBEDDED)
    try:
        path = user_path(written)
    except UserError as error:
        raise UserError(f"model {error}") from None
    if path.is_dir():
        if not (path / "config.json").is_file():
            files = sorted(path.glob(f"*{SUFFIX}"))
            hint = f"; a GGUF file is named itself, such as {files[0]}" if files else ""
            raise UserError(f"{path}: no config.json, so this is not a folder that holds a model{hint}")
        return str(path)
    looks_like_a_path = written.startswith((".", "/", "~"))
    if written.endswith(SUFFIX) and (path.is_file() or looks_like_a_path or written.count("/") < 2):
        return str(existing_gguf(path).absolute())
    if looks_like_a_path or (written.count("/") > 1 and not written.endswith(SUFFIX)):
        raise BaseNotHereError(f"{written}: no such folder, so no base model can be loaded from it")
    return written


def _hub_or_folder(spec: BaseSpec) -> tuple[str, dict[str, Any]]:
    """Where transformers finds a base: a folder or a name on the hub, and what else it is told of it."""
    source = resolve_base(spec)
    more: dict[str, Any] = {} if spec.revision is None else {"revision": spec.revision}
    if not source.endswith(SUFFIX):
        return source, more
    if (path := Path(source)).is_file():
        return str(path.parent), {**more, "gguf_file": path.name}
    owner, repository, file = source.split("/", 2)
    return f"{owner}/{repository}", {**more, "gguf_file": file}


def pick_dtype(dtype: str) -> torch.dtype:
    """The type of the weights. "auto" keeps float32 on a CPU: bfloat16 there is slower for small models."""
    if dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    if dtype not in _DTYPES:
        raise UserError(f"dtype {dtype!r} is not one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a folder is there and holds a tokenizer."""
    return any((Path(folder) / file).is_file() for file in _TOKENIZERS)


def check_folder(folder: Path) -> None:
    """Raise UserError if a folder of a base lacks weights or a tokenizer, or holds an adapter beside them."""
    if (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{folder}: {_ADAPTED}")
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise UserError(f"{folder}: the model folder holds no weights (no *.safetensors or pytorch_model*.bin)")
    check_parts(folder)
    if not has_tokenizer(folder):
        raise UserError(f"{folder}: the model folder holds no tokenizer (no tokenizer.json or tokenizer.model)")


def check_parts(folder: Path) -> None:
    """Raise UserError where a folder's weights lie in several files, and the list of them names one elsewhere."""
    for index in sorted(folder.glob("*.index.json")):
        parts = read_json(index).get("weight_map")
        for part in parts.values() if isinstance(parts, dict) else ():
            inside(folder, str(part), index)


def _check_complete(loaded: dict[str, Any], source: str) -> None:
    """Refuse weights that do not fill the model: transformers would draw the rest at random, anew at every load."""
    if loaded["mismatched_keys"]:
        key, found, wanted = sorted(loaded["mismatched_keys"])[0]
        raise UserError(f"{source}: {key} has the size {tuple(found)}, and config.json wants {tuple(wanted)}")
    missing = sorted(loaded["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{source}: the weights lack {missing[0]}{more}, so this is not the whole of the model")


def _check_sizes(config: Mapping[str, Any], source: str) -> None:
    for key, most in _LARGEST.items():
        value = config.get(key)
        if isinstance(value, int) and not 1 <= value <= most:
            raise UserError(f"{source}: {key} is {value:,} in config.json; a model has from 1 to {most:,}")


def _from_hub_or_folder(auto_class: Any, spec: BaseSpec, **arguments: Any) -> Any:
    """`auto_class.from_pretrained`, with its many failures told as one line."""
    place, more = _hub_or_folder(spec)
    # Without this the hub client retries for most of a minute before it says that there is no network.
    offline = not Path(place).is_dir() and not hub_in_reach()
    bars = without_bars() if "gguf_file" in more else nullcontext()  # one that takes no switch
    with _told(spec, offline), quiet_libraries(), bars:
        return auto_class.from_pretrained(
            place, local_files_only=offline, trust_remote_code=spec.trust_code, **more, **arguments
        )


@contextmanager
def _told(spec: BaseSpec, offline: bool = False) -> Iterator[None]:
    """Around reading what anybody may have written: libraries raise whatever they run into."""
    source = resolve_base(spec)
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the Rust underneath is no Exception
        if "trust_remote_code" in str(error):
            raise UserError(f"{source}: {NEEDS_TRUST}") from error
        if type(error).__name__ == "SafetensorError":
            raise UserError(f"{source}: the weights cannot be read: {error}") from error
        if Path(source).is_dir():
            raise UserError(f"{source}: the model folder cannot be loaded: {_reason(error)}") from error
        if Path(source).is_file():
            raise UserError(f"{source}: the GGUF file cannot be loaded: {_reason(error)}") from error
        kind, why = (OutOfReachError, "the hub is not in reach (offline)") if offline else (UserError, _reason(error))
        raise kind(f"model {spec.name!r} is neither a folder nor found on the hub: {why}") from error


def _reason(error: BaseException) -> str:
    """Why something could not be loaded, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    if reason.endswith(":"):  # the cause, or a list, follows
        reason = " ".join(lines)
    if isinstance(error, KeyError):
        return f"one of its files lacks {reason}"
    known = isinstance(error, (OSError, ValueError, RuntimeError, ImportError))
    return (reason if known else f"{type(error).__name__}: {reason}")[:300]


def hub_in_reach() -> bool:
    """Whether the hub can be asked at all: a try of some seconds, where its own client would wait for a minute."""
    if hub_settings.HF_HUB_OFFLINE:
        return False
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True  # only the client knows how to get through a proxy
    endpoint = urlsplit(hub_settings.ENDPOINT)
    try:
        port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
        socket.create_connection((endpoint.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True
