"""Dropout by places: every element drops independently with the given probability, and no more is touched."""

import math

import pytest
import torch
from torch.nn.functional import linear

from loraweave.lowrank import dropping

CPU = torch.device("cpu")


@pytest.mark.parametrize("p", [0.02, 0.05, 0.2, 0.3, 0.5])
def test_each_element_is_dropped_with_probability_p_and_on_its_own(p: float):
    torch.manual_seed(0)
    n, trials = 400, 3000
    dropped = torch.zeros(trials, n)
    for row in dropped:
        row[dropping.dropped(n, p, CPU)] = 1.0
    error = math.sqrt(p * (1 - p) / trials)
    assert (dropped.mean(0) - p).abs().max() < 5 * error  # each place, the first and the last as well
    assert abs(dropped.mean() - p) < 5 * error / math.sqrt(n)
    together = (dropped[:, :-1] * dropped[:, 1:]).mean(0)  # neighbours, which gaps could tie together
    assert (together - p * p).abs().max() < 6 * math.sqrt(p * p * (1 - p * p) / trials)
    count = dropped.sum(1)
    assert count.var() == pytest.approx(n * p * (1 - p), rel=0.15)


@pytest.mark.parametrize("numel", [0, 1, 2, 7])
def test_few_elements(numel: int):
    for _ in range(50):
        places = dropping.dropped(numel, 0.3, CPU)
        assert len(places) <= numel
        assert places.unique().numel() == len(places)


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_the_default_dtype_has_no_say(p: float):
    """A uniform number in bfloat16 takes 256 values: gaps drawn from it would be far from geometric."""
    torch.manual_seed(3)
    expected = dropping.dropped(10_000, p, CPU)
    try:
        torch.set_default_dtype(torch.bfloat16)
        torch.manual_seed(3)
        assert torch.equal(dropping.dropped(10_000, p, CPU), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_seed_repeats_it():
    torch.manual_seed(3)
    one = dropping.dropped(10_000, 0.1, CPU)
    torch.manual_seed(3)
    assert torch.equal(one, dropping.dropped(10_000, 0.1, CPU))
    assert not torch.equal(one, dropping.dropped(10_000, 0.1, CPU))


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_is_a_scaled_copy_and_gradients_go_where_nothing_was_dropped(p: float):
    x = (torch.rand(7, 6, 5, dtype=torch.float64).transpose(0, 1) + 1).requires_grad_()  # not contiguous
    torch.manual_seed(0)
    result = dropping.dropout(x, p)
    kept = result != 0
    torch.testing.assert_close(result[kept], x[kept] / (1 - p))
    assert 0 < kept.sum() < x.numel()
    (result**2).sum().backward()
    torch.testing.assert_close(x.grad, 2 * result.detach() / (1 - p))


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6)])
def test_the_fused_product_equals_dropout_and_linear(p: float, shape: tuple[int, ...]):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(*shape[:-1], 4, generator=generator, dtype=torch.float64)
    results = []
    for fast in (True, False):
        torch.manual_seed(1)
        u = dropping.linear_after_dropout(x, rows, p) if fast else linear(dropping.dropout(x, p), rows)
        results.append((u, *torch.autograd.grad(u, [x, rows], grad)))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


def test_a_second_derivative_is_refused_and_not_wrong():
    x, rows = torch.randn(3, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(dropping.linear_after_dropout(x, rows, 0.2).sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_a_mask_has_two_values(p: float):
    torch.manual_seed(0)
    mask = dropping.mask((40, 3, 8), p, 1 / (1 - p), torch.empty(0, dtype=torch.float64))
    assert mask.shape == (40, 3, 8)
    assert mask.dtype == torch.float64
    assert set(mask.unique().tolist()) == {0.0, 1 / (1 - p)}
    assert mask.mean() == pytest.approx(1, abs=0.15)
