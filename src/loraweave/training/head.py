"""The language-model head, at the scored positions alone: TRL's fused one, or the base's own where that is another.

TRL's multiplies by the weight of the base's output embeddings, and knows the scales and soft caps that some bases put
on the product. What a base does beyond that (a dense layer before it in BERT's family, another soft cap in
RecurrentGemma, code of a base's own) it does not know, so it is tried before it is used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from loraweave.errors import UserError

TOKENS = 8
NEAR = 0.02  # of the largest logit; bfloat16 rounds to 0.4 %


@contextmanager
def hidden_states_at(base: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    """Hand only some positions on to the language-model head: the vocabulary is large and completions are short.

    Args:
        base: the causal model; its backbone returns `last_hidden_state` (batch, tokens, d), which becomes (1, n, d).
        positions: (n,) in the flattened batch.
    """

    def pick(module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.flatten(0, 1)[positions][None]
        return output

    hook = base.base_model.register_forward_hook(pick)
    try:
        yield
    finally:
        hook.remove()


def of_own_head(outputs: Any, targets: Tensor) -> SimpleNamespace:
    """As the fused head gives it: `log_probs` (1, n) of `targets` (n,), and `aux_loss` where the model has one.

    Args:
        outputs: of the model, with logits (1, n, vocabulary).
        targets: (n,) token ids.
    """
    log_probs = outputs.logits[0].float().log_softmax(-1).gather(-1, targets[:, None])
    return SimpleNamespace(log_probs=log_probs.T, aux_loss=getattr(outputs, "aux_loss", None))


@torch.no_grad()
def fused_head_fits(model: nn.Module, base: PreTrainedModel, device: torch.device, **inputs: Any) -> bool:
    """Whether the fused head gives the log-probabilities that the base's own head gives, from the same hidden states.

    Args:
        model: the base, with its adapter if it has one.
        base: with `trl.trainer.utils.add_fused_lm_head`.
        device: of the inputs.
        inputs: what the model wants beside token ids.

    Raises:
        UserError: the base's head is another, and does not read what its backbone returns.
    """
    ids = torch.arange(1, TOKENS + 1, device=device)[None]
    seen: list[Any] = []

    def same(module: nn.Module, args: Any, output: Any) -> Any:
        seen.append(output)
        return seen[0]

    hook = base.base_model.register_forward_hook(same)
    try:
        own = model(input_ids=ids, use_cache=False, **inputs)
        backbone_was_called = bool(seen)
        targets = own.logits[0].argmin(-1)  # the likeliest may be certain by either head
        fused = model(input_ids=ids, shift_labels=targets[None], use_cache=False, fused_lm_head=True, **inputs)
        off = (fused.log_probs - of_own_head(own, targets).log_probs).abs().max()
        if not off > NEAR * own.logits.abs().max():  # of weights that are not numbers nothing can be said
            return True
    except AttributeError:  # a head that PEFT has wrapped and that is no longer a weight and a bias
        backbone_was_called = True
    finally:
        hook.remove()
    if not backbone_was_called:
        raise UserError(
            f"{type(base).__name__}: what its head makes of hidden states is not known, so the loss of its tokens "
            "cannot be computed: take another base"
        )
    return False
