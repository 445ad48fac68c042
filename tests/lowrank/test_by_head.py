"""Each row meets its own head alone, whichever way the products are made."""

import pytest
import torch

from loraweave.lowrank import by_head

N, R, IN, OUT = 5, 3, 7, 11


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heads_of(kind, count):
    drawn = torch.Generator().manual_seed(1)
    return {
        "one": torch.tensor([2]),
        "stretches": torch.randint(N, (count // 4,), generator=drawn),
        "each": torch.randint(N, (count,), generator=drawn),
        "one each": torch.full((count,), 3),
    }[kind]


@pytest.mark.parametrize("kind", ["one", "stretches", "each", "one each"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("few", [False, True])
def test_products_are_those_of_a_plain_loop(kind, masked, few, monkeypatch):
    monkeypatch.setitem(by_head.AT_ONCE, "cpu", 2**20 if few else 0)
    count = 12
    x, y, u = draw(count, IN), draw(count, OUT, seed=1), draw(count, R, seed=2)
    A, B = draw(N, R, IN, seed=3), draw(N, OUT, R, seed=4)
    mask = (draw(N, OUT, R, seed=5) > 0).double() if masked else None
    heads = heads_of(kind, count)
    rows = by_head.HeadRows(heads, count)
    own = heads.repeat_interleave(count // len(heads))
    with torch.no_grad():
        down = by_head.down(x, A, rows)
        before = y.clone()
        up = by_head.add_up(y, u, B, rows, 0.7, mask=mask)
        assert torch.equal(y, before), "y is left as it is"
        in_place = by_head.add_up(y, u, B, rows, 0.7, in_place=True, mask=mask)
    weights = B if mask is None else B * mask
    for row, head in enumerate(own.tolist()):
        assert torch.allclose(down[row], A[head] @ x[row])
        assert torch.allclose(up[row], before[row] + 0.7 * weights[head] @ u[row])
    assert torch.allclose(in_place, up)


def test_heads_that_are_not_there_are_not_looked_at():
    A, B = draw(N, R, IN), draw(N, OUT, R, seed=1)
    A[1], B[1] = float("nan"), float("nan")
    rows, x = by_head.HeadRows(torch.tensor([0, 2, 0, 4]), 4), draw(4, IN, seed=2)
    with torch.no_grad():
        u = by_head.down(x, A, rows)
        y = by_head.add_up(torch.zeros(4, OUT, dtype=torch.float64), u, B, rows, 1.0)
    assert u.isfinite().all()
    assert y.isfinite().all()


def test_gradients_are_those_of_a_plain_loop():
    heads = torch.tensor([0, 2, 0, 4, 4, 1])
    rows = by_head.HeadRows(heads, 6)
    tensors = [draw(6, IN), draw(N, R, IN, seed=1), draw(N, OUT, R, seed=2)]
    found = [t.clone().requires_grad_() for t in tensors]
    u = by_head.down(found[0], found[1], rows)
    by_head.add_up(torch.zeros(6, OUT, dtype=torch.float64), u, found[2], rows, 1.0).square().sum().backward()
    plain = [t.clone().requires_grad_() for t in tensors]
    torch.stack([plain[2][h] @ plain[1][h] @ plain[0][i] for i, h in enumerate(heads)]).square().sum().backward()
    for one, other in zip(found, plain, strict=True):
        assert torch.allclose(one.grad, other.grad)
