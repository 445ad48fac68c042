"""Whether a model reads a text from its beginning on: one that sees what comes after a token is given the answers."""

import torch
from torch import nn
from transformers import PreTrainedModel

from loraweave.errors import UserError


def check_causal(model: PreTrainedModel, source: str) -> None:
    """Refuse a model whose tokens see those behind them, as BERT and its family do unless their configuration makes
    decoders of them: transformers loads them as causal models all the same, and says so in a warning.

    A model on the meta device, which has no values, is taken at the word of its configuration and layers.

    Args:
        model: just loaded. source: where from, for the message.

    Raises:
        UserError: it is one.
    """
    said = [module.is_causal for module in model.modules() if isinstance(getattr(module, "is_causal", None), bool)]
    encodes = getattr(model.config, "is_decoder", None) is False
    if any(said) or not (said or encodes):
        return
    if (encodes and said) if model.device.type == "meta" else _sees_ahead(model):
        raise UserError(
            f"{source}: {model.config.model_type} is no causal language model: its tokens see those that come after "
            "them, so it would be given the answers that it is to learn. Take a model that writes text"
        )


@torch.no_grad()
def _sees_ahead(model: nn.Module) -> bool:
    """Whether the last token of a text changes what a model in evaluation mode makes of those before it."""
    device = next(model.parameters()).device
    ids = torch.arange(3, 11, device=device).repeat(2, 1)
    ids[1, -1] += 1
    one, other = model.eval()(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return bool((one - other).abs().max() > 1e-3 * one.abs().max())
