"""Load a causal language model and its tokenizer, and say in one line what is missing when that cannot be done."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

from loraweave.bases.vocabulary import check_vocabulary
from loraweave.errors import UserError, shown
from loraweave.files import read_json
from loraweave.paths import user_path
from loraweave.quiet import quiet_libraries

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
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_base(name: str | Path, dtype: str = "auto", trust_code: bool = False) -> Base:
    """Load a base model and its tokenizer, with a padding token.

    Args:
        name: "nano", a folder written by `save_pretrained`, or a name on the hub.
        dtype: of the weights: "auto" (bfloat16 on a GPU that computes in it, else float32), "float32", "bfloat16" or
            "float16".
        trust_code: run Python code that comes with the model (`auto_map` in its files).

    Returns:
        The model, in evaluation mode on the CPU, and the tokenizer.

    Raises:
        UserError: the folder lacks its config, weights or tokenizer; or the name is neither a folder nor within reach
            on the hub.
    """
    source = resolve_base(name)
    torch_dtype = pick_dtype(dtype)
    if Path(source).is_dir():
        _check_folder(Path(source), name)
    # The config first: where the name is wrong or the hub out of reach, this says so at once.
    config = base_config(name, trust_code)
    model, loaded = _from_hub_or_folder(
        AutoModelForCausalLM,
        source,
        name,
        trust_code,
        config=config,
        dtype=torch_dtype,
        ignore_mismatched_sizes=True,  # told below, in one line
        output_loading_info=True,
    )
    _check_complete(loaded, source)
    tokenizer = load_tokenizer(name, trust_code)
    check_vocabulary(model, tokenizer, source)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def base_config(name: str | Path, trust_code: bool = False) -> PreTrainedConfig:
    """The configuration alone, without weights.

    Raises:
        UserError: as `load_base`, except that no weights are needed.
    """
    source = resolve_base(name)
    if Path(source).is_dir():  # as it is written: a configuration made of it may fail on a size in words of its own
        written = read_json(Path(source) / "config.json")
        text = written.get("text_config")
        _check_sizes(text if isinstance(text, dict) else written, source)
    config = _from_hub_or_folder(AutoConfig, source, name, trust_code)
    _check_sizes(config.get_text_config().to_dict(), source)
    return config


def empty_base(name: str | Path, trust_code: bool = False) -> PreTrainedModel:
    """The same architecture on the meta device: shapes without weights, for counting parameters.

    Raises:
        UserError: as `load_base`, except that no weights are needed.
    """
    config = base_config(name, trust_code)
    with _told(resolve_base(name), name), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_code)


def load_tokenizer(name: str | Path, trust_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a base, with a padding token.

    Raises:
        UserError: as `load_base`, for the tokenizer alone.
    """
    tokenizer = _from_hub_or_folder(AutoTokenizer, resolve_base(name), name, trust_code)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"the tokenizer of {str(name)!r} has neither a padding nor an end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float):
        raise UserError(f"{name}: model_max_length of the tokenizer must be a number, got {shown(longest)}")
    return tokenizer


def resolve_base(name: str | Path) -> str:
    """The folder behind `name`, or the name itself where it can only be one on the hub."""
    if str(name) == "nano":
        if not (EMBEDDED / "config.json").is_file():
            raise UserError(f"the base 'nano' is not in this installation ({EMBEDDED} is missing)")
        return str(EMBEDDED)
    try:
        folder = user_path(name)
    except UserError as error:
        raise UserError(f"model {error}") from None
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: no config.json, so this is not a folder that holds a model")
        return str(folder)
    looks_like_a_path = str(name).startswith((".", "/", "~")) or str(name).count("/") > 1
    if looks_like_a_path:
        raise UserError(f"{name}: no such folder, so no base model can be loaded from it")
    return str(name)


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


def _check_folder(folder: Path, name: str | Path) -> None:
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise UserError(f"{folder}: the model folder holds no weights (no *.safetensors or pytorch_model*.bin)")
    if not has_tokenizer(folder):
        raise UserError(f"{folder}: the model folder holds no tokenizer (no tokenizer.json or tokenizer.model)")


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


def _from_hub_or_folder(auto_class: Any, source: str, name: str | Path, trust_code: bool, **arguments: Any) -> Any:
    """`auto_class.from_pretrained`, with its many failures told as one line."""
    # Without this the hub client retries for most of a minute before it says that there is no network.
    offline = not Path(source).is_dir() and not _hub_in_reach()
    with _told(source, name, offline), quiet_libraries():
        return auto_class.from_pretrained(source, local_files_only=offline, trust_remote_code=trust_code, **arguments)


@contextmanager
def _told(source: str, name: str | Path, offline: bool = False) -> Iterator[None]:
    """Around reading what anybody may have written: libraries raise whatever they run into."""
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
        why = "the hub is not in reach (offline)" if offline else _reason(error)
        raise UserError(f"model {str(name)!r} is neither a folder nor found on the hub: {why}") from error


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


def _hub_in_reach() -> bool:
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
