"""Gates: weights are a distribution over heads, start uniform at zero logits, and keep their precision."""

import pytest
import torch

from loraweave.lowrank.gates import Gate, softmax_over_heads


def test_every_gate_is_a_distribution_over_heads():
    torch.manual_seed(0)
    by_token = Gate(router=torch.randn(3, 7)).weights(torch.randn(2, 5, 3), None)
    by_task = Gate(task_logits=torch.randn(4, 3)).weights(None, lambda table: table[torch.tensor([0, 3])])
    for weights, leading in ((by_token, (2, 5)), (by_task, (2,))):
        assert weights.shape == (*leading, 3)
        torch.testing.assert_close(weights.sum(-1), torch.ones(leading))


def test_zero_logits_weigh_all_heads_alike():
    assert torch.equal(Gate(router=torch.zeros(4, 7)).weights(torch.zeros(2, 4), None), torch.full((2, 4), 0.25))


def test_a_gate_of_none_of_these_kinds_weighs_nothing():
    assert Gate().weights(None, None) is None
    assert Gate(share=3).by_task() is None


def test_a_gate_by_task_needs_to_know_the_task():
    with pytest.raises(ValueError, match="task"):
        Gate(task_logits=torch.zeros(2, 3)).weights(None, None)


def test_softmax_runs_in_float32_for_half_inputs():
    logits = torch.tensor([[10.0, 10.01, 3.0]])
    low = softmax_over_heads(logits.bfloat16())
    assert low.dtype == torch.bfloat16
    exact = torch.softmax(logits.bfloat16().double(), -1)
    torch.testing.assert_close(low.double(), exact, rtol=0.004, atol=0)


def test_float64_stays_float64():
    logits = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(softmax_over_heads(logits), torch.softmax(logits, -1), rtol=0, atol=0)
