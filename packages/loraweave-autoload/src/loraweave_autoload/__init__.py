"""Registers the method with PEFT in every program that loads torch, which calls `register` (see pyproject.toml)."""

import warnings


def register() -> None:
    """Have the method registered as soon as PEFT is loaded. Never raises."""
    try:
        from loraweave.registration import register_without_import

        register_without_import()
    except Exception as error:
        warnings.warn(f"loraweave-autoload: {error!r}", stacklevel=2)
