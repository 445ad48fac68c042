"""Adapters that are a plain LoRA for each task are served as that, and say what they say by themselves."""

import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_adapters import FOLDING, METHODS, NEED_TASKS, method
from tiny_voices import adapter, prompts, said_alone, said_together

from loraweave.serving import folded
from loraweave.serving.folded import FoldedSpeakers, folds, speakers_of
from loraweave.serving.voices import BASE, Speakers, Voice


@pytest.fixture(autouse=True)
def room(monkeypatch):
    monkeypatch.setattr(folded, "MOST", 10.0)  # the test's base is smaller than its adapters


@pytest.mark.parametrize("name", FOLDING)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_each_is_heard_as_the_adapter_says_it_alone(name, architecture, tiny_model):
    model = adapter(tiny_model(architecture, torch.float64), name).double()
    voices = [Voice("default", 0), Voice("default", 1)] if name in NEED_TASKS else [Voice("default")]
    drawn = random.Random(1)
    requests = [(drawn.choice([*voices, BASE]), prompt) for prompt in prompts(8)]
    expected = [said_alone(model, *request) for request in requests]
    assert folds(model)
    assert said_together(model, requests, FoldedSpeakers) == expected
    assert len({tuple(said) for said in expected}) > len(voices), "the voices say something"


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_hear_the_input_are_served_as_they_are(name, tiny_model):
    model = adapter(tiny_model(), name)
    assert folds(model) == (name in FOLDING)
    assert isinstance(speakers_of(model), FoldedSpeakers if name in FOLDING else Speakers)


def test_what_does_not_fold_in_place_is_served_as_it_is(tiny_model, monkeypatch):
    assert not folds(get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")))
    assert not folds(adapter(tiny_model(), "own", target_modules=["lm_head", "q_proj"]))
    assert not folds(adapter(tiny_model().bfloat16(), "own"))  # the adapter computes in float32, and rounds once
    two = adapter(tiny_model(), "own")
    two.add_adapter("other", method("own"))
    assert not folds(two)
    monkeypatch.setattr(folded, "MOST", 0.01)
    assert not folds(adapter(tiny_model(), "own"))
    assert isinstance(speakers_of(tiny_model()), Speakers)
