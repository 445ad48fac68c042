"""The PEFT method. Importing this package registers it with PEFT, once."""

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import register_peft_method

from ..config import WeaveConfig
from ..peft_type import LORAWEAVE
from . import hotswap, hub, lora_conversion
from .context import TaskContext, checkpoint_context, task
from .layer import WeaveLinear
from .model import WeaveModel

if LORAWEAVE not in PEFT_TYPE_TO_TUNER_MAPPING:
    register_peft_method(name="loraweave", prefix="weave_", config_cls=WeaveConfig, model_cls=WeaveModel)
    lora_conversion.register()
    hotswap.register()
    hub.register()

__all__ = ["TaskContext", "WeaveConfig", "WeaveLinear", "WeaveModel", "checkpoint_context", "task"]
