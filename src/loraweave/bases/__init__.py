"""Base models by name: `nano` (ships with the package), a local folder, or a name on the Hugging Face hub."""

from loraweave.bases.fingerprint import check_fingerprint, fingerprint
from loraweave.bases.load import Base, base_config, empty_base, load_base, resolve_base

__all__ = ["Base", "base_config", "check_fingerprint", "empty_base", "fingerprint", "load_base", "resolve_base"]
