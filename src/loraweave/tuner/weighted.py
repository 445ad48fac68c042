"""A weighted sum of adapters as one adapter, exact: their heads stacked into one head of the summed rank.

Every fixed update is Σ_h g_h B_h A_h with known g_h; side by side, all A and all B make one pair whose rank is the sum.
Where gates or transforms depend on the task, they become one r × r task transform, diag-stacked in the same way. A gate
on x has no such form: two softmaxes are not one.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from loraweave.config import WeaveConfig
from loraweave.errors import UserError, nearest
from loraweave.lowrank.factors import truncate
from loraweave.tuner.layer import WeaveLinear


def check_sum(configs: dict[str, Any], adapters: list[str], weights: list[float], new: str, kind: str) -> None:
    """Raise UserError unless the sum can be one adapter."""
    several = "several adapters can be active together, unweighted: model.base_model.set_adapter([…])"
    if kind != "cat":
        raise UserError(f"combination_type={kind!r} is not one of cat; cat is exact, of the summed rank")
    if not adapters or len(adapters) != len(weights) or len(set(adapters)) != len(adapters):
        raise UserError(f"give each adapter once, with one weight: got {adapters} with {len(weights)} weights")
    for name in adapters:
        if name not in configs:
            raise UserError(f"unknown adapter {name!r}{nearest(name, configs)}; there are {', '.join(configs)}")
        if configs[name].modules_to_save:
            raise UserError(f"adapter {name!r} has modules_to_save, which are trained whole and have no sum; {several}")
        if configs[name].bias != "none":
            raise UserError(f"adapter {name!r} trained biases of the base, which have no sum; {several}")
    if new in configs:
        raise UserError(f"adapter {new!r} exists already: delete_adapter it first, or choose another name")
    if len(adapters) == 1:
        return
    for name in adapters:
        if configs[name].depends_on_input:
            raise UserError(
                f"adapter {name!r} ({configs[name].method}) weighs its heads by the input; a sum with others is no one "
                f"adapter; {several}"
            )
    names = {tuple(configs[n].task_names) for n in adapters if configs[n].needs_tasks}
    if len(names) > 1:
        raise UserError(
            f"adapters {', '.join(adapters)} know different tasks ({'; '.join(', '.join(n) for n in sorted(names))}); "
            "convert each for one task with peft.convert_to_lora inside loraweave.task(…) and add those up"
        )


def scaled_copy(layer: WeaveLinear, adapter: str, weight: float) -> dict[str, Tensor]:
    """One adapter's tensors with the update times `weight`, for every method: the factors up are scaled."""
    scaled = ("weave_B", "weave_anchor_B")
    tensors = {name: getattr(layer, name)[adapter].detach() for name in layer.knobs[adapter].tensors}
    return {name: tensor * weight if name in scaled else tensor.clone() for name, tensor in tensors.items()}


@torch.no_grad()
def stacked(layer: WeaveLinear, parts: list[tuple[str, float]], num_tasks: int) -> dict[str, Tensor]:
    """The weighted sum of `parts` in one layer, as the tensors of an adapter with one head and scaling 1.

    Returns:
        weave_A (1, R, d_in), weave_B (1, d_out, R), and weave_task_transform (K, R, R) if `num_tasks` K is not 0.
    """
    downs, ups, transforms = [], [], []
    for adapter, weight in parts:
        down, up, core = layer.formula(adapter).task_core(num_tasks)
        downs.append(down)
        ups.append(up * weight)
        transforms.append(core)
    down, up = torch.cat(downs), torch.cat(ups, dim=1)
    if num_tasks == 0:
        down, up = truncate(down, up, min(layer.in_features, layer.out_features))  # exact: no more is in the product
        return {"weave_A": down[None], "weave_B": up[None]}
    transform = torch.stack([torch.block_diag(*(t[k] for t in transforms)) for k in range(num_tasks)])
    if down.shape[0] > max(layer.in_features, layer.out_features):
        down, up, transform = _to_the_sides(down, up, transform)
    return {"weave_A": down[None], "weave_B": up[None], "weave_task_transform": transform}


def _to_the_sides(down: Tensor, up: Tensor, transform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same updates up @ transform @ down with the larger of d_in and d_out as rank."""
    basis_in, core_in = torch.linalg.qr(down.T)
    basis_out, core_out = torch.linalg.qr(up)
    between = core_out @ transform @ core_in.T
    rank = max(between.shape[-2:])
    rows, columns = rank - between.shape[-2], rank - between.shape[-1]
    return pad(basis_in.T, (0, 0, 0, columns)), pad(basis_out, (0, rows)), pad(between, (0, columns, 0, rows))


def sum_config(configs: dict[str, Any], adapters: list[str], ranks: dict[str, int]) -> WeaveConfig:
    """The sum's configuration: one head, scaling 1, `ranks` per layer, and task transforms if any part needs tasks."""
    tasks = next((configs[n].task_names for n in adapters if configs[n].needs_tasks), None)
    r = max(ranks.values())
    first = configs[adapters[0]]
    return WeaveConfig(
        r=r,
        lora_alpha=r,
        rank_pattern={name: rank for name, rank in ranks.items() if rank != r},
        alpha_pattern={name: rank for name, rank in ranks.items() if rank != r},
        target_modules=sorted(ranks),
        task_names=tasks,
        task_transform=tasks is not None,
        task_type=first.task_type,
        block_size=next((configs[n].block_size for n in adapters if configs[n].block_size), None),
        base_model_name_or_path=first.base_model_name_or_path,
        revision=first.revision,
    )


def weighted_layers(
    model: nn.Module, configs: dict[str, Any], adapters: list[str], weights: list[float]
) -> tuple[WeaveConfig, dict[str, dict[str, Tensor]]]:
    """The sum's configuration, and its tensors for every layer that any of the adapters is in, by the layer's path."""
    tensors: dict[str, dict[str, Tensor]] = {}
    tasks = next((len(configs[n].task_names) for n in adapters if configs[n].needs_tasks), 0)
    for name, layer in model.named_modules():
        if not isinstance(layer, WeaveLinear):
            continue
        parts = [(a, w) for a, w in zip(adapters, weights, strict=True) if a in layer.knobs]
        if parts and len(adapters) == 1:
            tensors[name] = scaled_copy(layer, *parts[0])
        elif parts:
            tensors[name] = stacked(layer, parts, tasks)
    if len(adapters) == 1:
        return replace(configs[adapters[0]]), tensors
    return sum_config(configs, adapters, {name: t["weave_A"].shape[1] for name, t in tensors.items()}), tensors
