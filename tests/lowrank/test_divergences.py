"""The auxiliary losses against textbook formulas."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from loraweave.lowrank import divergences


def moments(*tasks: torch.Tensor):
    counts = torch.tensor([len(t) for t in tasks])
    return counts, torch.stack([t.sum(0) for t in tasks]), torch.stack([t.square().sum(0) for t in tasks])


def test_symmetric_kl_is_the_mean_over_pairs_of_torchs_own():
    torch.manual_seed(0)
    tasks = [torch.randn(n, 6, dtype=torch.float64) * s + m for n, s, m in ((50, 1, 0), (30, 2, 1), (70, 0.5, -1))]
    gaussians = [Independent(Normal(t.mean(0), t.std(0, unbiased=False)), 1) for t in tasks]
    pairs = [
        0.5 * (kl_divergence(p, q) + kl_divergence(q, p)) for i, p in enumerate(gaussians) for q in gaussians[i + 1 :]
    ]
    expected = sum(pairs) / 3
    torch.testing.assert_close(divergences.symmetric_kl(*moments(*tasks)), expected, rtol=1e-4, atol=0)


def test_symmetric_kl_does_not_depend_on_the_scale_and_is_zero_for_equal_tasks():
    torch.manual_seed(0)
    a, b = torch.randn(40, 3, dtype=torch.float64), torch.randn(40, 3, dtype=torch.float64) + 1
    one = divergences.symmetric_kl(*moments(a, b))
    torch.testing.assert_close(divergences.symmetric_kl(*moments(1e-3 * a, 1e-3 * b)), one, rtol=1e-5, atol=0)
    assert divergences.symmetric_kl(*moments(a, a)) < 1e-12


@pytest.mark.parametrize("counts", [[9, 0, 0], [9, 1, 1]])
def test_tasks_that_are_not_there_do_not_count(counts: list[int]):
    tasks = [torch.randn(n, 3) for n in counts]
    counts_, sums, squares = moments(*tasks)
    sums.requires_grad_()
    loss = divergences.symmetric_kl(counts_, sums, squares)
    assert loss == 0
    loss.backward()
    assert sums.grad.eq(0).all()


def test_mmd_is_the_textbook_sum_over_samples():
    torch.manual_seed(0)
    tasks = [torch.randn(5, 2, dtype=torch.float64) + m for m in (0, 1, 3)]

    def kernel(a, b):
        return sum(torch.exp(-(a - b).square().sum() / (2 * s)) for s in divergences.BANDWIDTHS)

    def mean(p, q):
        return sum(kernel(a, b) for a in p for b in q) / (len(p) * len(q))

    expected = sum(mean(p, p) + mean(q, q) - 2 * mean(p, q) for i, p in enumerate(tasks) for q in tasks[i + 1 :]) / 3
    samples = torch.stack(tasks)
    result = divergences.mmd(samples, torch.ones(3, 5, dtype=torch.float64))
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=0)
    # a weight counts as so many copies of a point, and a task without weight does not count
    weights = torch.ones(3, 5, dtype=torch.float64)
    weights[2] = 0
    weights[0, 0] = 2
    copies = torch.cat([tasks[0], tasks[0][:1]])
    expected = mean(copies, copies) + mean(tasks[1], tasks[1]) - 2 * mean(copies, tasks[1])
    torch.testing.assert_close(divergences.mmd(samples, weights), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("pairs", [1, 40, 2**22])
def test_the_gradient_of_mmd_is_right_in_parts_of_any_size(monkeypatch, pairs):
    monkeypatch.setattr(divergences, "PAIRS", pairs)
    torch.manual_seed(0)
    samples = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(4, 3, dtype=torch.float64)
    weights[3] = 0
    bandwidths = (0.3, 1.0, 20.0)
    assert torch.autograd.gradcheck(lambda points: divergences.mmd(points, weights, bandwidths), samples)
    divergences.mmd(samples, weights, bandwidths).backward()
    assert samples.grad[3].eq(0).all()
    assert samples.grad[:3].ne(0).all()


def test_mmd_is_zero_without_two_tasks():
    weights = torch.zeros(3, 4)
    for there in range(2):
        weights[:there] = 1
        samples = torch.randn(3, 4, 2, requires_grad=True)
        result = divergences.mmd(samples, weights)
        result.backward()
        assert result == 0
        assert samples.grad.eq(0).all()


def test_mmd_keeps_no_more_than_its_points():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        divergences.mmd(torch.randn(20, 16, 8, requires_grad=True), torch.ones(20, 16))
    assert sum(kept) <= 2 * 20 * 16 * 8


def test_nineteen_bandwidths_from_1e_minus_6_to_1e6():
    assert len(divergences.BANDWIDTHS) == 19
    assert divergences.BANDWIDTHS[0] == pytest.approx(1e-6)
    assert divergences.BANDWIDTHS[-1] == pytest.approx(1e6)


def test_imbalance():
    assert divergences.imbalance(torch.tensor([5.0, 5.0, 5.0])) == pytest.approx(0, abs=1e-6)
    assert divergences.imbalance(torch.tensor([9.0, 0.0, 0.0])) == pytest.approx(2)
    share = torch.tensor([0.5, 0.3, 0.2])
    expected = (share.std(unbiased=False) / share.mean()) ** 2
    torch.testing.assert_close(divergences.imbalance(100 * share), expected)


def overlap_by_hand(B: torch.Tensor) -> torch.Tensor:
    """mtLoRA's formula by singular value decompositions, pair by pair."""
    weighed = []
    for head in B:
        U, s, Vh = torch.linalg.svd(head, full_matrices=False)
        weighed.append(U @ torch.diag(s * torch.exp(-s / s.mean())) @ Vh)
    pairs = [(weighed[i].T @ weighed[j]).square().sum() for j in range(len(B)) for i in range(j)]
    return torch.stack(pairs).sum()


def test_spectral_overlap_is_its_formula_and_its_gradient_holds_the_weights_fixed() -> None:
    torch.manual_seed(0)
    B = torch.randn(4, 11, 3, dtype=torch.float64, requires_grad=True)
    loss = divergences.spectral_overlap(B)
    torch.testing.assert_close(loss, overlap_by_hand(B))
    (gradient,) = torch.autograd.grad(loss, B)
    W = []
    for head in B.detach():
        _, s, Vh = torch.linalg.svd(head, full_matrices=False)
        W.append(Vh.T @ torch.diag(torch.exp(-s / s.mean())) @ Vh)
    fixed = torch.stack([head @ w for head, w in zip(B, W, strict=True)])
    pairs = [(fixed[i].T @ fixed[j]).square().sum() for j in range(4) for i in range(j)]
    torch.testing.assert_close(gradient, torch.autograd.grad(torch.stack(pairs).sum(), B)[0])


def test_spectral_overlap_has_a_gradient_of_numbers_at_the_start_and_is_zero_for_heads_apart() -> None:
    B = torch.zeros(3, 6, 2, requires_grad=True)
    loss = divergences.spectral_overlap(B)
    loss.backward()
    assert loss == 0
    assert torch.equal(B.grad, torch.zeros_like(B))
    apart = torch.eye(6).split(2, dim=1)
    assert divergences.spectral_overlap(torch.stack(apart)) == pytest.approx(0, abs=1e-12)
    assert divergences.spectral_overlap(torch.randn(1, 6, 2)) == 0


def test_localized_imbalance_counts_a_heads_own_group_more() -> None:
    weights = torch.tensor([[3.0, 1.0], [2.0, 2.0]])  # two tasks, two heads
    alike = torch.eye(2, dtype=torch.bool)
    counted = torch.tensor([3 * 1.2 + 2 * 0.8, 1 * 0.8 + 2 * 1.2])
    expected = counted.var(correction=0) / counted.mean() ** 2
    torch.testing.assert_close(divergences.localized_imbalance(weights, alike, 0.2), expected)
    plain = divergences.imbalance(weights.sum(0))
    torch.testing.assert_close(divergences.localized_imbalance(weights, alike, 0.0), plain)
