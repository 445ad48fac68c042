"""109: the algebra without PEFT: a layer of your own from tensors alone, its gates, its fold to a plain LoRA.

python examples/109_bare_algebra.py
"""

import torch
from torch import nn

from loraweave import lowrank
from loraweave.lowrank.formula import Formula
from loraweave.lowrank.gates import Gate, softmax_over_heads

torch.manual_seed(0)


class RoutedLinear(nn.Module):
    """y = W x + s Σ_h g_h(x) B_h A x: HydraLoRA in ten lines.

    Args:
        linear: frozen, (d_in → d_out).
        r: rank of a head. heads: N.
    """

    def __init__(self, linear: nn.Linear, r: int = 4, heads: int = 3, scaling: float = 2.0) -> None:
        super().__init__()
        self.linear, self.scaling = linear.requires_grad_(False), scaling
        self.A = nn.Parameter(torch.randn(1, r, linear.in_features) / linear.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(heads, linear.out_features, r))
        self.router = nn.Parameter(torch.randn(heads, linear.in_features) / linear.in_features**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, d_in) -> (…, d_out)."""
        weights = softmax_over_heads(x @ self.router.T)
        return self.linear(x) + lowrank.delta(x, self.A, self.B, weights=weights, scaling=self.scaling)


layer = RoutedLinear(nn.Linear(16, 8))
x, wanted = torch.randn(64, 16), torch.randn(64, 8)
optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=1e-2)
for step in range(200):
    loss = (layer(x) - wanted).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step in (0, 199):
        print(f"step {step + 1}: {loss.item():.3f}")

# A router has no fixed fold. With the heads' mean weights on the data in its place there is one, and its cost is known.
routed = Formula(layer.A.detach(), layer.B.detach(), Gate(router=layer.router.detach()), scaling=layer.scaling)
mean = routed.token_weights(x).mean(0)
down, up = routed.weighed(mean).factors()
exact, folded = routed.update(x), x @ down.T @ up.T
print(f"folded to rank {len(down)}: off by {((exact - folded).norm() / exact.norm()).item():.0%} of the update")

# A gate by task folds exactly, for each task.
by_task = Formula(routed.A, routed.B, Gate(task_logits=torch.randn(2, 3)), scaling=2.0)
for task in range(2):
    down, up = by_task.factors(task)
    update = by_task.update(x, pick=lambda table, task=task: table[task])
    print(f"task {task}: off by {(update - x @ down.T @ up.T).abs().max().item():.1e}")
