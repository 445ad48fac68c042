"""The PEFT method: puts a `WeaveLinear` in the place of every targeted layer."""

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, check_target_module_exists
from peft.utils import TaskType
from peft.utils.other import get_pattern_key
from torch import nn

from ..config import WeaveConfig
from .context import attach, detach
from .layer import WeaveLinear


class WeaveModel(BaseTuner):
    """A model with Weave adapters, made by `peft.get_peft_model(model, WeaveConfig(...))`.

    Calls take `tasks`: names or ids, one for all, one per sequence, or a LongTensor (batch,) or (batch, tokens).
    """

    prefix = "weave_"
    tuner_layer_cls = WeaveLinear
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 (PEFT reads a class attribute; the default is "all-linear")

    def _create_and_replace(
        self,
        peft_config: WeaveConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        rank = peft_config.rank_pattern.get(get_pattern_key(list(peft_config.rank_pattern), current_key), peft_config.r)
        alpha_key = get_pattern_key(list(peft_config.alpha_pattern), current_key)
        alpha = peft_config.alpha_pattern.get(alpha_key, peft_config.lora_alpha)
        layer = target
        if not isinstance(target, WeaveLinear):
            layer = WeaveLinear(target, current_key, attach(self.model))
            layer.set_adapter(self.active_adapters)
        layer.update_layer(adapter_name, peft_config, rank, alpha, peft_config.inference_mode)
        if layer is not target:
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)

    @staticmethod
    def _check_target_module_exists(peft_config: WeaveConfig, key: str) -> Any:
        # A new head is trained whole, and "all-linear" must not adapt it too. PEFT adds a token classifier's head to
        # modules_to_save only after the layers have been chosen.
        whole = [*(peft_config.modules_to_save or ())]
        if peft_config.task_type == TaskType.TOKEN_CLS:
            whole += ["classifier", "score"]
        if any(key == name or key.endswith(f".{name}") for name in whole):
            return False
        return check_target_module_exists(peft_config, key)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        detach(model)
        return model

    def generate(self, *args: Any, tasks: Any = None, **kwargs: Any) -> torch.Tensor:
        """The model's own `generate`, with `tasks` for the prompts."""
        if tasks is None:
            return self.model.generate(*args, **kwargs)
        with attach(self.model).use(tasks):
            return self.model.generate(*args, **kwargs)
