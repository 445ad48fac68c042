"""Gates: weights are a distribution over heads, start uniform at zero logits, and keep their precision."""

import torch

from loraweave.lowrank.gates import Gate, softmax_over_heads

B = torch.zeros(3, 5, 2)


def test_every_gate_is_a_distribution_over_heads():
    torch.manual_seed(0)
    for top_k in (None, 1, 2):
        by_token = Gate(router=torch.randn(3, 7), top_k=top_k).of_tokens(torch.randn(2, 5, 3))
        by_group = Gate(router=torch.randn(6, 7), groups=2, top_k=top_k).of_tokens(torch.randn(2, 5, 6))
        by_task = Gate(task_logits=torch.randn(4, 3), top_k=top_k).by_task(B)
        for weights, leading in ((by_token, (2, 5)), (by_group, (2, 5, 2)), (by_task, (4,))):
            assert weights.shape == (*leading, 3)
            torch.testing.assert_close(weights.sum(-1), torch.ones(leading))
            assert ((weights > 0).sum(-1) == (top_k or 3)).all()


def test_zero_logits_weigh_all_heads_alike():
    assert torch.equal(Gate(router=torch.zeros(4, 7)).of_tokens(torch.zeros(2, 4)), torch.full((2, 4), 0.25))


def test_the_highest_so_many_share_all_weight_as_they_would_without_the_others():
    logits = torch.tensor([[1.0, 3.0, 2.0, -1.0]], requires_grad=True)
    weights = softmax_over_heads(logits, top_k=2)
    expected = torch.softmax(torch.tensor([3.0, 2.0]), 0)
    torch.testing.assert_close(weights.detach(), torch.tensor([[0.0, *expected]])[:, [0, 1, 2, 0]])
    weights[0, 1].backward()
    assert logits.grad[0, [0, 3]].eq(0).all()  # who does not speak learns nothing
    assert logits.grad[0, [1, 2]].ne(0).all()


def test_with_heads_of_their_own_tasks_weigh_one_head_each():
    assert torch.equal(Gate(own=True).by_task(B), torch.eye(3))


def test_a_gate_of_none_of_these_kinds_weighs_nothing():
    assert Gate().by_task(B) is None
    assert Gate(share=3).by_task(B) is None


def test_softmax_runs_in_float32_for_half_inputs():
    logits = torch.tensor([[10.0, 10.01, 3.0]])
    low = softmax_over_heads(logits.bfloat16())
    assert low.dtype == torch.bfloat16
    exact = torch.softmax(logits.bfloat16().double(), -1)
    torch.testing.assert_close(low.double(), exact, rtol=0.004, atol=0)


def test_float64_stays_float64():
    logits = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(softmax_over_heads(logits), torch.softmax(logits, -1), rtol=0, atol=0)
