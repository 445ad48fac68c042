"""Requests of several tasks, of an adapter and of the base, in one batch: each says what it says alone."""

import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_adapters import METHODS, NEED_TASKS, method, randomize
from tiny_voices import adapter, draw, prompts, said_alone, said_together
from transformers import AutoConfig, AutoModelForCausalLM

from loraweave import UserError
from loraweave.serving.voices import BASE, Speakers, Voice


def check(model, voices, count=8):
    drawn = random.Random(1)
    requests = [(drawn.choice(voices), prompt) for prompt in prompts(count)]
    expected = [said_alone(model, *request) for request in requests]
    assert said_together(model, requests) == expected
    assert len({tuple(said) for said in expected}) > len(voices), "the voices say something"


@pytest.mark.parametrize("name", [*METHODS, "lora"])
def test_each_is_heard_as_alone(name, tiny_model):
    model = adapter(tiny_model().double(), name)
    voices = [Voice("default", 0), Voice("default", 1)] if name in NEED_TASKS else [Voice("default")]
    check(model, [*voices, BASE])


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "opt", "mixtral"])
def test_on_other_architectures(architecture, tiny_model):
    base = tiny_model(architecture, torch.float32 if architecture == "mixtral" else torch.float64)
    check(adapter(base, "mtllora"), [Voice("default", 0), Voice("default", 1), BASE])


def test_where_layers_see_a_window_or_are_eager():
    config = AutoConfig.for_model(
        "gemma2",
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        max_position_embeddings=64,
        sliding_window=8,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    check(adapter(model, "own"), [Voice("default", 0), Voice("default", 1), BASE])


def test_several_loras_share_a_batch(tiny_model):
    model = adapter(tiny_model().double(), "lora")
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    draw(model, "other", 1)
    check(model.eval(), [Voice("default"), Voice("other"), BASE])


def test_several_weave_adapters_share_a_batch(tiny_model):
    model = adapter(tiny_model().double(), "rlora")
    model.add_adapter("other", method("mtllora", r=2))
    randomize(model, 1, "other")
    check(model.eval(), [Voice("default"), Voice("other", 0), Voice("other", 1), BASE])


def test_an_adapted_head_sees_every_token(tiny_model):
    model = adapter(tiny_model().double(), "rlora", target_modules=["lm_head", "q_proj"])
    check(model, [Voice("default"), BASE])


def test_prompts_longer_than_a_batch_come_in_parts(tiny_model):
    model = adapter(tiny_model().double(), "own")
    long = tuple(range(3, 33))
    assert said_together(model, [(Voice("default", 1), long)] * 3) == [said_alone(model, Voice("default", 1), long)] * 3


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"modules_to_save": ["lm_head"]}, "it has trained lm_head as a whole"),
        ({"bias": "all"}, "it has trained biases of the base"),
        ({"use_dora": True}, r".* is adapted by DoRA"),
        ({"init_lora_weights": "pissa"}, "its start changed the base's own weights"),
    ],
)
def test_adapters_that_change_more_than_layers_speak_alone(knobs, reason, tiny_model):
    import re

    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **knobs)
    model = get_peft_model(tiny_model(), config).double().eval()
    draw(model)
    speakers = Speakers(model)
    assert re.fullmatch(reason, speakers.alone)
    check_requests = [(Voice("default"), prompt) for prompt in prompts(5)]
    assert said_together(model, check_requests) == [said_alone(model, *request) for request in check_requests]


def test_an_adapter_by_task_on_routed_layers_is_refused(tiny_model):
    model = tiny_model()
    model.model.experts = torch.nn.ModuleList([torch.nn.Linear(32, 32)])
    model = get_peft_model(model, method("mtllora", target_modules=["q_proj", "experts.0"]))
    with pytest.raises(UserError, match=r"answers by task.*experts\.0 is called on tokens that a router chose.*export"):
        Speakers(model)
