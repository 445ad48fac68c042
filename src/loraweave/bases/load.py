"""Load a causal language model and its tokenizer, and say in one line what is missing when that cannot be done."""

import os
import socket
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

from loraweave.errors import UserError
from loraweave.paths import user_path
from loraweave.quiet import quiet_libraries

Base = tuple[PreTrainedModel, PreTrainedTokenizerBase]
"""A base model and its tokenizer."""

EMBEDDED = Path(__file__).parent / "nano"

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
    config = _from_hub_or_folder(AutoConfig, source, name, trust_code)
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
    tokenizer = _from_hub_or_folder(AutoTokenizer, source, name, trust_code)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"the tokenizer of {str(name)!r} has neither a padding nor an end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def base_config(name: str | Path, trust_code: bool = False) -> PreTrainedConfig:
    """The configuration alone, without weights.

    Raises:
        UserError: as `load_base`, except that no weights are needed.
    """
    return _from_hub_or_folder(AutoConfig, resolve_base(name), name, trust_code)


def empty_base(name: str | Path, trust_code: bool = False) -> PreTrainedModel:
    """The same architecture on the meta device: shapes without weights, for counting parameters.

    Raises:
        UserError: as `load_base`, except that no weights are needed.
    """
    config = base_config(name, trust_code)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_code)


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


def _check_folder(folder: Path, name: str | Path) -> None:
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise UserError(f"{folder}: the model folder holds no weights (no *.safetensors or pytorch_model*.bin)")
    if not any((folder / file).is_file() for file in _TOKENIZERS):
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


def _from_hub_or_folder(auto_class: Any, source: str, name: str | Path, trust_code: bool, **arguments: Any) -> Any:
    """`auto_class.from_pretrained`, with its many failures told as one line."""
    in_folder = Path(source).is_dir()
    # Without this the hub client retries for most of a minute before it says that there is no network.
    offline = not in_folder and not _hub_in_reach()
    try:
        with quiet_libraries():
            return auto_class.from_pretrained(
                source, local_files_only=offline, trust_remote_code=trust_code, **arguments
            )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(f"{source}: {NEEDS_TRUST}") from error
        first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if first_line.endswith(":"):  # a list follows
            first_line = " ".join(str(error).split())
        if isinstance(error, KeyError):
            first_line = f"one of its files lacks {first_line}"
        if in_folder:
            raise UserError(f"{source}: the model folder cannot be loaded: {first_line}") from error
        why = "the hub is not in reach (offline)" if offline else first_line
        raise UserError(f"model {str(name)!r} is neither a folder nor found on the hub: {why}") from error
    except Exception as error:  # safetensors raises its own type for a truncated or foreign file
        if type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"{source}: the weights cannot be read: {error}") from error


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
