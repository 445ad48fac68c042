"""Updates of different ranks for rows of their own: both ways equal each update by itself."""

import pytest
import torch
from torch import Tensor

from loraweave.lowrank.ragged import Pair, add_each, add_stacked, stacked

RANKS = (1, 4, 9)
T, D_IN, D_OUT = 23, 7, 11


@pytest.fixture
def pairs() -> list[Pair]:
    torch.manual_seed(0)
    wide = torch.float64
    return [(torch.randn(r, D_IN, dtype=wide), torch.randn(D_OUT, r, dtype=wide)) for r in RANKS]


def added(way: str, y: Tensor, x: Tensor, numbers: Tensor, pairs: list[Pair], in_place: bool) -> Tensor:
    if way == "stacked":
        return add_stacked(y, x, numbers, stacked(dict(enumerate(pairs))), in_place)
    rows = [(pair, (numbers == number).nonzero().flatten()) for number, pair in enumerate(pairs)]
    return add_each(y, x, rows, in_place)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("way", ["stacked", "each"])
def test_every_row_gets_its_own_update_and_no_other(pairs: list[Pair], way: str, in_place: bool) -> None:
    x, y = torch.randn(T, D_IN).double(), torch.randn(T, D_OUT).double()
    numbers = torch.randint(-1, len(pairs), (T,))
    before = y.clone()
    result = added(way, y, x, numbers, pairs, in_place)
    for row, number in enumerate(numbers.tolist()):
        A, B = pairs[number] if number >= 0 else (torch.zeros(1, D_IN).double(), torch.zeros(D_OUT, 1).double())
        torch.testing.assert_close(result[row], before[row] + B @ (A @ x[row]))
    assert (result.data_ptr() == y.data_ptr()) == in_place
    assert in_place or torch.equal(y, before)


@pytest.mark.parametrize("way", ["stacked", "each"])
def test_what_overflows_in_one_update_touches_no_other_row(pairs: list[Pair], way: str) -> None:
    x, y = torch.randn(T, D_IN).double(), torch.randn(T, D_OUT).double()
    numbers = torch.arange(T) % 3 - 1
    pairs[1] = pairs[1][0] * 1e308, pairs[1][1]
    result = added(way, y, x, numbers, pairs, False)
    assert torch.isfinite(result[numbers != 1]).all()
    assert not torch.isfinite(result[numbers == 1]).all()
    assert torch.equal(result[numbers == -1], y[numbers == -1])


def test_one_update_for_all_rows_is_one_pair_of_products(pairs: list[Pair]) -> None:
    x, y = torch.randn(T, D_IN).double(), torch.randn(T, D_OUT).double()
    A, B = pairs[1]
    torch.testing.assert_close(add_each(y, x, [(pairs[1], torch.arange(T))]), y + x @ A.T @ B.T)


@pytest.mark.parametrize("way", ["stacked", "each"])
def test_gradients_are_those_of_each_update(pairs: list[Pair], way: str) -> None:
    x = torch.randn(5, D_IN).double().requires_grad_()
    y = torch.randn(5, D_OUT).double()
    numbers = torch.tensor([0, 2, -1, 2, 1])
    assert torch.autograd.gradcheck(lambda x: added(way, y, x, numbers, pairs, False), x)
