"""Answers that share their prompt score as if each were read with it alone."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from loraweave.evaluation.shared_prompt import score_answers

PROMPTS = [[1, 7, 9, 11, 4], [1, 5], [1, 8, 3, 3, 20, 21, 22]]
ANSWERS = [[[30], [31, 32, 33]], [[40, 41]], [[50, 51], [52], [53, 54, 55, 56]]]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "opt", "mixtral"])
def test_equals_one_forward_pass_per_answer(tiny_model, architecture):
    model = tiny_model(architecture)
    found = score_answers(model, PROMPTS, ANSWERS)
    for prompt, choices, scores in zip(PROMPTS, ANSWERS, found, strict=True):
        for answer, (total, greedy) in zip(choices, scores, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            targets = torch.tensor(answer)
            assert total == pytest.approx(logits.gather(1, targets[:, None]).sum().item(), abs=1e-4)
            assert greedy == bool((logits.argmax(-1) == targets).all())


def test_a_greedy_answer_is_seen(tiny_model):
    model = tiny_model("llama")
    written = model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=3, do_sample=False)[0, 5:].tolist()
    (scores,) = score_answers(model, PROMPTS[:1], [[written, [*written[:-1], (written[-1] + 1) % 64]]])
    assert [greedy for _, greedy in scores] == [True, False]


def test_a_sliding_window_is_left_to_lm_eval(tiny_model):
    config = tiny_model("mixtral").config
    config.sliding_window = 4
    model = AutoModelForCausalLM.from_config(config).eval()
    assert score_answers(model, PROMPTS, ANSWERS) is None
