"""What is compared: one linear layer, frozen, under each adapter, as a function that takes one training step.

A step is forward, backward (to the layer's input as well, as in the middle of a model) and AdamW on the adapter.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import peft
import torch
from torch import Tensor, nn

from loraweave.config import PRESETS

Step = Callable[[], None]


class LoopOverHeads(nn.Module):
    """R-LoRA and HydraLoRA as published: one head's full output after another. Written from the formula.

    y = W x + s · Σ_h softmax(router x)_h B_h (mask_h ⊙ A x), or the mask on x with `head_dropout` off.
    """

    def __init__(self, base: nn.Linear, r: int, heads: int, dropout: float, head_dropout: bool) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, r, bias=False)
        self.heads = nn.ModuleList(nn.Linear(r, base.out_features, bias=False) for _ in range(heads))
        self.router = nn.Linear(base.in_features, heads, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.head_dropout = head_dropout

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        weights = torch.softmax(self.router(x), dim=-1)
        for h, up in enumerate(self.heads):
            u = self.dropout(self.down(x)) if self.head_dropout else self.down(self.dropout(x))
            y = y + weights[..., h, None] * up(u) * 2.0
        return y


class LoopOverModules(nn.Module):
    """MultiLoRA as published: one module's full output after another. Written from the formula.

    y = W x + s · Σ_h g_h ⊙ B_h A_h D(x).
    """

    def __init__(self, base: nn.Linear, r: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.downs = nn.ModuleList(nn.Linear(base.in_features, r, bias=False) for _ in range(heads))
        self.ups = nn.ModuleList(nn.Linear(r, base.out_features, bias=False) for _ in range(heads))
        self.scales = nn.Parameter(torch.zeros(heads, base.out_features))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        for down, up, scale in zip(self.downs, self.ups, self.scales, strict=True):
            y = y + scale * up(down(self.dropout(x))) * 2.0
        return y


def step_of(model: nn.Module, x: Tensor, call: dict[str, Any] | None = None, autocast: bool = False) -> Step:
    """One training step of `model` on x (batch, tokens, d_in)."""
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True) if trained else None
    x = x.detach().requires_grad_()
    precision: Any = torch.autocast(x.device.type, torch.bfloat16) if autocast else contextlib.nullcontext()
    grad_y: Tensor | None = None

    def step() -> None:
        nonlocal grad_y
        with precision:
            y = model(x, **(call or {}))
        if grad_y is None:
            grad_y = torch.randn_like(y)
        y.backward(grad_y)
        x.grad = None
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()

    return step


def layer_steps(
    d_in: int,
    d_out: int,
    batch: int,
    tokens: int,
    rank: int,
    heads: int,
    names: Sequence[str],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    autocast: bool = False,
    num_tasks: int = 8,
    tasks_per_token: bool = False,
) -> dict[str, Step]:
    """A step of each subject on the same input.

    Args:
        d_in, d_out: of the layer.
        batch, tokens: of the input.
        rank: total rank; each of the heads has rank / heads.
        heads: number of heads.
        names: "frozen", "lora", "poly", "loop-rlora", "loop-hydralora", "loop-multilora" or a preset's name, each with
            "@p" for a dropout of p; without it, none.
        device, dtype: of everything.
        autocast: compute in bfloat16.
        num_tasks: for methods with tasks.
        tasks_per_token: give ids per token, as in packed rows, not per sequence.
    """
    steps: dict[str, Step] = {}
    task_names = [f"task{i}" for i in range(num_tasks)]
    torch.manual_seed(0)
    x = torch.randn(batch, tokens, d_in, device=device, dtype=dtype)
    ids = torch.randint(num_tasks, (batch, tokens) if tasks_per_token else (batch,), device=device)
    for name in names:
        method, _, given = name.partition("@")
        drop, r = float(given or 0), rank // heads
        torch.manual_seed(1)
        layer = nn.Linear(d_in, d_out, bias=False).to(device, dtype).requires_grad_(False)
        model: nn.Module = nn.Sequential(OrderedDict(layer=layer))
        config: Any = None
        call: dict[str, Any] = {}
        if method == "lora":
            config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=drop, target_modules=["layer"])
        elif method == "poly":
            config = peft.PolyConfig(r=r, n_tasks=num_tasks, n_skills=heads, target_modules=["layer"])
            call = {"task_ids": ids if ids.ndim == 1 else ids[:, 0]}
        elif method in ("loop-rlora", "loop-hydralora"):
            model = LoopOverHeads(layer, r, heads, drop, head_dropout=method == "loop-rlora")
        elif method == "loop-multilora":
            model = LoopOverModules(layer, r, heads, drop)
        elif method != "frozen":
            config = PRESETS[method](
                r=r, num_heads=heads, lora_dropout=drop, task_names=task_names, target_modules=["layer"]
            )
            call = {"tasks": ids} if config.needs_tasks else {}
        if config is not None:
            model = peft.get_peft_model(model, config)
            model = model.base_model if method == "poly" else model  # PeftModel drops its task ids
        model.to(device)
        steps[name] = step_of(model, x, call, autocast)
    return steps
