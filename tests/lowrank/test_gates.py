"""Gates: weights are a distribution over heads, start uniform at zero logits, and keep their precision."""

import torch

from loraweave.lowrank import gates


def test_every_gate_is_a_distribution_over_heads():
    torch.manual_seed(0)
    for weights in (
        gates.token_weights(torch.randn(2, 5, 7), torch.randn(3, 7)),
        gates.task_weights(torch.randn(4, 3), temperature=0.1),
        gates.embedding_weights(torch.randn(4, 6), torch.randn(3, 6)),
    ):
        assert weights.shape[-1] == 3
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_zero_logits_weigh_all_heads_alike():
    weights = gates.token_weights(torch.randn(2, 7), torch.zeros(4, 7))
    assert torch.equal(weights, torch.full((2, 4), 0.25))


def test_a_lower_temperature_is_sharper():
    logits = torch.tensor([[0.1, 0.2, 0.3]])
    assert gates.task_weights(logits, 0.01).max() > gates.task_weights(logits, 1.0).max()


def test_softmax_runs_in_float32_for_half_inputs():
    logits = torch.tensor([[10.0, 10.01, 3.0]])
    low = gates.softmax_over_heads(logits.bfloat16())
    assert low.dtype == torch.bfloat16
    exact = torch.softmax(logits.bfloat16().double(), -1)
    torch.testing.assert_close(low.double(), exact, rtol=0.004, atol=0)


def test_float64_stays_float64():
    logits = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(gates.softmax_over_heads(logits), torch.softmax(logits, -1), rtol=0, atol=0)
