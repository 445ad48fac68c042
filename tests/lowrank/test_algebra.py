"""The algebra: against the published layers' recordings, and against the plain loop on random shapes."""

import itertools
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import reference
import torch
from safetensors import safe_open
from torch import Tensor

from loraweave import lowrank
from loraweave.lowrank.formula import formula_of


def recording(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(str(path), "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def leaf(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_()


def stack(tensors: dict[str, Tensor], pattern: str, count: int, prefix: str = "param") -> Tensor:
    return torch.stack([tensors[f"{prefix}.{pattern.format(i)}"] for i in range(count)])


def layer_of(method: str, t: dict[str, Tensor], meta: dict[str, str]):
    """(arguments of delta as functions of leaves, leaves by name, recorded gradient of each leaf)."""
    heads = int(meta.get("num_heads") or meta.get("num_modules") or meta.get("num_experts"))
    if method in ("hydralora", "rlora"):
        leaves = {
            "A": t["param.lora_A.weight"][None],
            "B": stack(t, "lora_B{}.weight", heads),
            "router": t["param.lora_route.weight"],
        }
        grads = {
            "A": t["grad.lora_A.weight"][None],
            "B": stack(t, "lora_B{}.weight", heads, "grad"),
            "router": t["grad.lora_route.weight"],
        }
    elif method == "multilora":
        leaves = {"A": t["param.lora_A"], "B": t["param.lora_B"], "channel": t["param.lora_scaling"]}
        grads = {"A": t["grad.lora_A"], "B": t["grad.lora_B"], "channel": t["grad.lora_scaling"]}
    elif method == "mtllora":
        names = {"A": "lora_A", "B": "lora_B", "logits": "lora_B_w", "transform": "lora_lambdas"}
        leaves = {k: t[f"param.{v}"] for k, v in names.items()}
        grads = {k: t[f"grad.{v}"] for k, v in names.items()}
    else:
        leaves, grads = (
            {
                "A": stack(t, "lora_A.loraA.{}.weight", heads, p),
                "B": stack(t, "lora_B.loraB.{}.weight", heads, p),
                "gate": t[f"{p}.lora_gate.GateL.weight"],
                "embedding": t[f"{p}.lora_task_embedding.weight"],
            }
            for p in ("param", "grad")
        )
    return {k: leaf(v) for k, v in leaves.items()}, grads


GATES = {"router": "token", "channel": "channel", "logits": "task", "embedding": "task_embedding"}


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("hydralora", 1e-5),
        ("rlora_eval", 1e-5),
        ("rlora_dropout", 1e-5),
        ("multilora", 1e-10),
        ("mtllora_tau0.1", 1e-5),
        ("mtllora_tau1.0", 1e-5),
        ("moelora", 1e-10),
    ],
)
def test_reproduces_the_published_layer(shared: Path, name: str, tolerance: float):
    t, meta = recording(shared / "golden" / f"{name}.safetensors")
    leaves, grads = layer_of(meta["method"], t, meta)
    x = leaf(t["x"])
    names = {"logits": "task_logits", "transform": "task_transform", "embedding": "task_embedding", "gate": "task_gate"}
    tensors = {names.get(key, key): value for key, value in leaves.items()}
    gate = next(GATES[key] for key in GATES if key in leaves)
    temperature = float(meta.get("temperature", 1.0))
    knobs = SimpleNamespace(gate=gate, temperature=temperature, top_k=None, gate_groups=1, router_input="x")
    formula = formula_of(knobs, tensors, float(meta["scaling"]))

    y = torch.nn.functional.linear(x, t["param.weight"], t["param.bias"])
    y = y + formula.update(x, pick=lambda table: table[t["task_ids"]][:, None], masks=t.get("dropout_masks"))
    y.backward(t["grad_y"])

    torch.testing.assert_close(y, t["y"], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(x.grad, t["grad_x"], rtol=tolerance, atol=tolerance)
    for key, value in leaves.items():
        torch.testing.assert_close(value.grad, grads[key], rtol=tolerance, atol=tolerance)


def random_case(seed: int) -> tuple[dict[str, Tensor], dict]:
    """Leaves (float64) and fixed arguments of one random combination of knobs."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    heads, r, d_in, d_out = rng.randint(1, 5), rng.randint(1, 4), rng.randint(4, 9), rng.randint(4, 9)
    leading = rng.choice([(), (3,), (2, 5), (2, 3, 2)])
    leaves = {
        "x": normal(*leading, d_in),
        "A": normal(rng.choice([1, heads]), r, d_in),
        "B": normal(heads, d_out, r),
    }
    if rng.random() < 0.6:
        leaves["weights"] = normal(*leading, heads)
    if rng.random() < 0.4:
        leaves["channel"] = normal(heads, d_out)
    if rng.random() < 0.4:
        leaves["transform"] = normal(*leading, r, r)
    fixed: dict = {"scaling": rng.choice([1.0, 0.3, 2.0])}
    if rng.random() < 0.4:
        fixed["masks"] = (torch.rand(heads, *leading, r, generator=generator) > 0.3).double() / 0.7
    return leaves, fixed


@pytest.mark.parametrize("seed", range(60))
def test_equals_the_loop_over_heads(seed: int):
    leaves, fixed = random_case(seed)
    results = []
    for function in (lowrank.delta, reference.delta):
        y = function(**leaves, **fixed)
        grads = torch.autograd.grad(y.sin().sum(), list(leaves.values()))
        results.append((y, *grads))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("shared_down", "gated", "transformed", "anchored"), itertools.product([True, False], repeat=4)
)
def test_fold_gives_the_same_update_as_plain_factors(shared_down, gated, transformed, anchored):
    torch.manual_seed(0)
    heads, r, d_in, d_out = 3, 2, 7, 6
    double = {"dtype": torch.float64}
    A, B = torch.randn(1 if shared_down else heads, r, d_in, **double), torch.randn(heads, d_out, r, **double)
    weights = torch.rand(heads, **double) if gated else None
    channel = torch.randn(heads, d_out, **double)
    transform = torch.randn(r, r, **double) if transformed else None
    anchor = (torch.randn(r, d_in, **double), torch.randn(d_out, r, **double)) if anchored else None
    x = torch.randn(4, d_in, **double)

    down, up = lowrank.fold(A, B, weights=weights, channel=channel, transform=transform, scaling=1.5, anchor=anchor)
    expected = reference.delta(x, A, B, weights=weights, channel=channel, transform=transform, scaling=1.5)
    if anchor is not None:
        expected = expected - 1.5 * x @ anchor[0].T @ anchor[1].T
    torch.testing.assert_close(x @ down.T @ up.T, expected, rtol=1e-12, atol=1e-12)
    assert down.shape[0] == (r if shared_down else heads * r) + (r if anchored else 0)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3, 8\).*\(4, 5, 3\)"):
        lowrank.delta(torch.zeros(1, 8), torch.zeros(2, 3, 8), torch.zeros(4, 5, 3))
    with pytest.raises(ValueError, match="input of 9"):
        lowrank.delta(torch.zeros(1, 9), torch.zeros(1, 3, 8), torch.zeros(4, 5, 3))
