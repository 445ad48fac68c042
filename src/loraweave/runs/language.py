"""Which parts of a base text never reaches: a base that also sees or hears is adapted in its language model alone."""

import re
from collections.abc import Collection, Iterable

from torch import nn
from transformers import PreTrainedModel

from loraweave.errors import UserError


def beside_language(base: PreTrainedModel) -> list[str]:
    """The paths of the parts that text does not go through, such as a vision tower and its projector.

    None where the base reads nothing but text. In Llama 3.2 Vision they are also the decoder's layers that attend to
    images.
    """
    text = base.config.get_text_config()
    decoder = base.get_decoder()
    if text is base.config or decoder is base or not isinstance(decoder, nn.Module):
        return []
    path = next((name for name, module in base.named_modules() if module is decoder), None)
    if path is None:
        return []
    kept = {id(module) for module in (decoder, base.get_output_embeddings(), base.get_input_embeddings())}
    found: list[str] = []
    parent, above = "", base
    for part in path.split("."):
        for name, child in above.named_children():
            if name != part and id(child) not in kept and any(True for _ in child.parameters()):
                found.append(f"{parent}{name}")
        parent, above = f"{parent}{part}.", above.get_submodule(part)
    return found + [f"{path}.layers.{index}" for index in getattr(text, "cross_attention_layers", None) or ()]


def leaving_out(parts: Iterable[str], excluded: Collection[str] | str | None) -> str:
    """PEFT's `exclude_modules` for what is left out already and, beside it, for all below these paths."""
    if isinstance(excluded, str):
        already = [excluded]
    else:  # PEFT compares names in a list with the end of a path
        already = [rf"(?:.*\.)?{re.escape(name)}" for name in sorted(excluded or ())]
    return "|".join(f"(?:{one})" for one in [*already, *(rf"{re.escape(part)}(?:\..*)?" for part in parts)])


def check_excluded(base: nn.Module, excluded: Collection[str] | str | None) -> None:
    """Refuse a list of `exclude_modules` that names a part of the base and not its layers: PEFT compares each name with
    the end of a layer's path, so `[vision_tower]` would leave nothing out.

    Raises:
        UserError: with the regular expression that does.
    """
    if excluded is None or isinstance(excluded, str):
        return
    for name in excluded:
        ending = [module for path, module in base.named_modules() if f".{path}".endswith(f".{name}")]
        if ending and all(any(True for _ in module.children()) for module in ending):
            pattern = rf"(.*\.)?{re.escape(name)}\..*"
            raise UserError(
                f"method: exclude_modules names {name!r}, which is a part of the base and no layer, and in a list the "
                f"ends of layers' paths are wanted: for all in it write exclude_modules: '{pattern}'"
            )


def freeze_beside_language(base: PreTrainedModel) -> None:
    """Train nothing that text does not reach: a gradient never comes, and weight decay would change it."""
    for part in beside_language(base):
        base.get_submodule(part).requires_grad_(False)


def language_notice(base: PreTrainedModel) -> str | None:
    """What to say of a base that reads more than text; None where it does not."""
    parts = beside_language(base)
    if not parts:
        return None
    return f"{base.config.model_type}: the language model alone is trained; text never reaches {', '.join(parts)}"
