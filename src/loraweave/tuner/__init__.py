"""The PEFT method. Importing this package registers it with PEFT, once."""

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import register_peft_method

from loraweave.config import WeaveConfig
from loraweave.peft_type import LORAWEAVE
from loraweave.tuner import hotswap, hub, lora_conversion
from loraweave.tuner.context import CallContext, checkpoint_context, task
from loraweave.tuner.layer import WeaveLinear
from loraweave.tuner.model import WeaveModel

if LORAWEAVE not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(name="loraweave", prefix="weave_", config_cls=WeaveConfig, model_cls=WeaveModel)
    lora_conversion.register()
    hotswap.register()
    hub.register()

__all__ = ["CallContext", "WeaveConfig", "WeaveLinear", "WeaveModel", "checkpoint_context", "task"]
