"""Starts: the documented distributions, and the anchor that cancels a random one."""

import math

import pytest
import torch

from loraweave.lowrank import starts


def test_kaiming_bound_is_one_over_root_fan_in():
    tensor = torch.empty(4, 50, 400)
    starts.kaiming(tensor)
    bound = 1 / math.sqrt(400)
    assert tensor.abs().max() <= bound
    assert tensor.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_anchored_start_has_the_papers_spread_and_cancels():
    torch.manual_seed(0)
    d_in, d_out, r, heads = 300, 625, 8, 5
    A, B = torch.empty(1, r, d_in, dtype=torch.float64), torch.empty(heads, d_out, r, dtype=torch.float64)
    anchor_A, anchor_B = starts.anchored(A, B)
    gain = d_out**0.25 / 8  # sqrt(gamma) = 8
    assert A.std() == pytest.approx(gain / math.sqrt(d_in), rel=0.05)
    assert B.std() == pytest.approx(gain / math.sqrt(d_out), rel=0.05)
    update = sum(B[h] @ A[0] for h in range(heads)) / heads - anchor_B @ anchor_A
    assert update.abs().max() < 1e-15
    assert all(not torch.equal(B[i], B[j]) for i in range(heads) for j in range(i))


def test_the_anchor_is_a_copy():
    A, B = torch.empty(1, 2, 6), torch.empty(2, 5, 2)
    anchor_A, _ = starts.anchored(A, B)
    A.zero_()
    assert anchor_A.abs().sum() > 0


@pytest.mark.parametrize(
    ("start", "low", "high"), [("zero_gate", 0, 0), ("random_anchored", 0.25, 0.25), ("zero_up", 0.5, 1.5)]
)
def test_channel_gate(start: str, low: float, high: float):
    gate = starts.channel_gate(4, 10, start)
    assert gate.shape == (4, 10)
    assert low <= gate.min()
    assert gate.max() <= high
