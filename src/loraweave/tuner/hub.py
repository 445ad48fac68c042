"""`push_to_hub` of a model with Weave adapters uploads the card that `save_pretrained` writes.

Transformers' `push_to_hub` saves the adapter with PEFT's card and then writes the card of a Transformers model over it.
The step after that, the upload, is a method of the model; it is wrapped to complete the card again.
"""

from functools import wraps
from pathlib import Path
from typing import Any

from peft import PeftModel

from loraweave.config import WeaveConfig
from loraweave.foreign import private_or_warn

UPLOAD = "_upload_modified_files"


def register() -> None:
    """Complete the card before PEFT models with Weave adapters are uploaded; warns where the upload is not known."""
    original = private_or_warn(PeftModel, UPLOAD, "the cards of adapters on the hub")
    if original is None:
        return

    @wraps(original)
    def upload(self: PeftModel, working_dir: str, *args: Any, **kwargs: Any) -> Any:
        ours = [config for config in self.peft_config.values() if isinstance(config, WeaveConfig)]
        if ours:
            self.create_or_update_model_card(working_dir)
        for config in ours:
            config.complete_card(Path(working_dir))
        return original(self, working_dir, *args, **kwargs)

    setattr(PeftModel, UPLOAD, upload)
