"""Several adapters in one call: each speaks for its own tokens alone, and the base for the rest."""

import pytest
import torch
from peft import get_peft_model
from tiny_adapters import IDS, METHODS, NAMES, NEED_TASKS, method, randomize

from loraweave import UserError
from loraweave.tuner.context import attach
from loraweave.tuner.parts import Part

ROWS = {"default": [0, 1, 2, 3, 4, 5, 6], "other": [14, 15, 16, 17, 18, 19, 20]}
"""The first of three sequences of seven tokens is the one's, the last the other's; the base has the second."""


def divided(model, parts):
    with torch.no_grad(), attach(model.get_base_model()).divided(parts):
        return model(input_ids=IDS).logits


def alone(model, adapter, tasks):
    model.set_adapter(adapter)
    with torch.no_grad():
        return model(input_ids=IDS, **({} if tasks is None else {"tasks": tasks})).logits


@pytest.mark.parametrize("name", METHODS)
def test_every_token_hears_its_own_adapter(name, tiny_model):
    model = get_peft_model(tiny_model().double(), method(name)).eval()
    model.add_adapter("other", method("mtllora", r=2))
    randomize(model)
    randomize(model, 1, "other")
    of_task = torch.tensor([1] * 7) if name in NEED_TASKS else None
    parts = {
        "default": Part(torch.tensor(ROWS["default"]), of_task),
        "other": Part(torch.tensor(ROWS["other"]), torch.tensor([0] * 7)),
    }
    together = divided(model, parts)
    first = alone(model, "default", NAMES[1] if name in NEED_TASKS else None)
    last = alone(model, "other", NAMES[0])
    with torch.no_grad(), model.disable_adapter():
        base = model(input_ids=IDS).logits
    assert torch.allclose(together[0], first[0], atol=1e-9)
    assert torch.allclose(together[2], last[2], atol=1e-9)
    assert torch.equal(together[1], base[1])
    assert (together[0] - base[0]).abs().max() > 1e-3
    assert (together[2] - base[2]).abs().max() > 1e-3


def test_tokens_of_one_adapter_may_have_several_tasks(tiny_model):
    model = get_peft_model(tiny_model().double(), method("own")).eval()
    randomize(model)
    rows = torch.tensor(ROWS["default"] + ROWS["other"])
    together = divided(model, {"default": Part(rows, torch.tensor([0] * 7 + [1] * 7))})
    assert torch.allclose(together[0], alone(model, "default", NAMES[0])[0], atol=1e-9)
    assert torch.allclose(together[2], alone(model, "default", NAMES[1])[2], atol=1e-9)


def test_no_part_is_the_base(tiny_model):
    model = get_peft_model(tiny_model(), method("rlora")).eval()
    randomize(model)
    with torch.no_grad(), model.disable_adapter():
        base = model(input_ids=IDS).logits
    assert torch.equal(divided(model, {}), base)
    assert not torch.equal(alone(model, "default", None), base), "and afterwards the adapter speaks again"


def test_a_layer_that_does_not_see_all_tokens_is_refused(tiny_model):
    model = get_peft_model(tiny_model(), method("rlora", target_modules=["lm_head"]))
    part = {"default": Part(torch.arange(7))}
    with (
        torch.no_grad(),
        attach(model.get_base_model()).divided(part),
        pytest.raises(UserError, match=r"lm_head gets 3 vectors.* all tokens in their order"),
    ):
        model(input_ids=IDS, logits_to_keep=1)


def test_an_adapter_that_needs_tasks_wants_them_in_its_part(tiny_model):
    model = get_peft_model(tiny_model(), method("mtllora")).eval()
    with pytest.raises(UserError, match=r"needs to know the task.*a, b"):
        divided(model, {"default": Part(torch.arange(7))})
