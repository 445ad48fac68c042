"""The configuration of an adapter in a folder."""

from pathlib import Path

from peft import LoraConfig, PeftConfig

from loraweave.adapters.fields import check_fields
from loraweave.config import WeaveConfig
from loraweave.errors import UserError
from loraweave.files import read_json

NAME = "adapter_config.json"


def read_config(folder: Path) -> PeftConfig:
    """The configuration of the adapter in `folder`.

    Raises:
        UserError: there is none, it cannot be read, a field holds what it cannot, or its method is neither this
            package's nor PEFT's LoRA.
    """
    if not (folder / NAME).is_file():
        raise UserError(f"{folder}: holds neither a run nor an adapter (no run.yaml, no {NAME})")
    check_fields(read_json(folder / NAME), f"{folder}: {NAME}")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{folder}: {NAME} cannot be read: {' '.join(str(error).split())}") from error
    if type(config) is not LoraConfig and not isinstance(config, WeaveConfig):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise UserError(f"{folder}: an adapter of the method {kind}; only LoRA and this package's can be read")
    return config
