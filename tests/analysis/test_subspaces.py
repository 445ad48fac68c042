"""Overlap of subspaces: its bounds, what chance gives, and how layers are put together."""

import pytest
import torch

from loraweave.analysis.spectra import decompose
from loraweave.analysis.subspaces import PairOverlap, grid_ranks, overlaps, overlaps_by_chance


def basis(d: int, k: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, k, generator=generator, dtype=torch.float64))[0]


def test_a_subspace_lies_in_itself_and_in_a_larger_one():
    grid = overlaps(basis(20, 6), basis(20, 6))
    torch.testing.assert_close(grid.diagonal(), torch.ones(6).double())
    torch.testing.assert_close(grid, torch.ones(6, 6).double())  # the smaller one lies in the larger one


def test_orthogonal_subspaces_do_not_overlap():
    both = basis(20, 8)
    assert overlaps(both[:, :4], both[:, 4:]).abs().max() < 1e-20


def test_a_turned_basis_spans_the_same():
    first, second, turn = basis(20, 5), basis(20, 3, seed=1), basis(5, 5, seed=2)
    torch.testing.assert_close(overlaps(first @ turn, second)[-1, -1], overlaps(first, second)[-1, -1])


def test_overlap_follows_the_paper_s_formula():
    first, second = basis(12, 4), basis(12, 3, seed=1)
    grid = overlaps(first, second)
    for i in range(1, 5):
        for j in range(1, 4):
            expected = torch.linalg.matrix_norm(first[:, :i].T @ second[:, :j]) ** 2 / min(i, j)
            assert grid[i - 1, j - 1] == pytest.approx(float(expected))


def test_random_subspaces_overlap_as_chance_says():
    grids = [overlaps(basis(16, 6, seed), basis(16, 3, seed + 1000)) for seed in range(400)]
    torch.testing.assert_close(torch.stack(grids).mean(0), overlaps_by_chance(6, 3, 16), atol=0.02, rtol=0)


def test_grids_are_means_over_the_layers_that_have_so_many_directions():
    pair = PairOverlap(("a", "b"), "q_proj", "left")
    factors = torch.randn(3, 10, dtype=torch.float64), torch.randn(12, 3, dtype=torch.float64)
    small = torch.randn(1, 10, dtype=torch.float64), torch.randn(12, 1, dtype=torch.float64)
    same, one, zero = decompose(*factors), decompose(*small), decompose(factors[0], factors[1] * 0)
    pair.add("0.q_proj", same, same)
    pair.add("1.q_proj", one, same)
    pair.add("2.q_proj", zero, same)
    found = pair.as_dict()
    assert found["ranks"] == [1, 2, 3]
    first = overlaps(one.left, same.left)[0]
    assert found["grid"][0][0] == pytest.approx((1 + float(first[0])) / 2)
    assert found["grid"][0][2] == pytest.approx((1 + float(first[2])) / 2)
    assert found["grid"][2] == pytest.approx([1, 1, 1])  # the first layer alone
    assert found["random"][2][1] == pytest.approx(3 / 12)
    assert [(entry["layer"], entry["rank"]) for entry in found["by_layer"]] == [("0.q_proj", 3), ("1.q_proj", 1)]
    assert found["by_layer"][0]["overlap"] == pytest.approx(1)


@pytest.mark.parametrize(("most", "ranks"), [(1, [1]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])])
def test_ranks_of_a_grid_are_powers_of_two_and_the_largest(most, ranks):
    assert grid_ranks(most) == ranks
