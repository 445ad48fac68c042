"""Base models by name: `nano` (ships with the package), a folder, a GGUF file, or a name on the Hugging Face hub."""

from loraweave.bases.devices import device
from loraweave.bases.identity import check_fingerprint, fingerprint
from loraweave.bases.load import (
    Base,
    base_config,
    empty_base,
    is_quantised,
    let_save,
    load_base,
    load_tokenizer,
    resolve_base,
)
from loraweave.bases.spec import BaseName, BaseNotHereError, BaseSpec
from loraweave.bases.vocabulary import check_ids, check_vocabulary, fill_padding, without_row

__all__ = [
    "Base",
    "BaseName",
    "BaseNotHereError",
    "BaseSpec",
    "base_config",
    "check_fingerprint",
    "check_ids",
    "check_vocabulary",
    "device",
    "empty_base",
    "fill_padding",
    "fingerprint",
    "is_quantised",
    "let_save",
    "load_base",
    "load_tokenizer",
    "resolve_base",
    "without_row",
]
