"""What cannot be served rightly is found out before anything is served."""

import asyncio
import threading

import pytest
import torch
from tiny_adapters import adapted
from transformers import AutoConfig, AutoModelForCausalLM

from loraweave import UserError
from loraweave.serving.engine import Engine
from loraweave.serving.limits import Limits
from loraweave.serving.trial import alone, check_together
from loraweave.serving.voices import BASE, Speakers, Voice

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def tried(model, voices=(BASE, BASE)):
    async def go():
        speakers = Speakers(model)
        expected = alone(speakers, list(voices))
        engine = Engine(speakers, Limits(batch=4, context=40))
        before = threading.active_count()
        try:
            await check_together(engine, expected, model.config.model_type)
        finally:
            assert threading.active_count() <= before + 1  # asyncio's own, which waited for the batch's
            assert not engine.alive

    asyncio.run(go())


def random_model(kind, **more):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "opt", "mixtral"])
def test_what_can_be_served_passes(architecture, tiny_model):
    tried(tiny_model(architecture))


def test_an_adapter_passes_beside_its_base(tiny_model):
    tried(adapted(tiny_model(), "mtllora"), [Voice("default", 0), Voice("default", 1), BASE])


@pytest.mark.parametrize(
    ("kind", "more", "says"),
    [
        ("bloom", {}, r"'bloom' cannot be served: in a batch of several requests it answers otherwise"),
        ("gptj", {"rotary_dim": 8}, r"'gptj' cannot be served: in a batch of several requests it answers otherwise"),
        ("falcon", {}, r"'falcon' cannot be served: a batch of several requests fails"),
        ("mamba", {}, r"'mamba' cannot be served: Invalid layer type"),
    ],
)
def test_what_mixes_requests_up_is_refused(kind, more, says):
    with pytest.raises(UserError, match=says):
        tried(random_model(kind, **more))


def test_an_adapter_that_hears_another_voice_is_noticed(tiny_model):
    """Were a batch's tokens given to the wrong voices, the trial would say so."""
    model = adapted(tiny_model(), "mtllora")
    speakers = Speakers(model)
    expected = alone(speakers, [Voice("default", 0), Voice("default", 1)])
    turned = [(type(one)(one.prompt, other.voice, one.longest, (), shown=[]), scores)
              for (one, scores), (other, _) in zip(expected, expected[::-1], strict=True)]  # fmt: skip

    async def go():
        await check_together(Engine(speakers, Limits(batch=4, context=40)), turned, "llama")

    with pytest.raises(UserError, match="answers otherwise"):
        asyncio.run(go())
