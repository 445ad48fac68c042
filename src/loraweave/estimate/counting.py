"""How many parameters a method trains, counted on an injected model; and the rank at which it trains as many as asked.

Everything happens on the meta device: shapes are real, no weight is ever allocated.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from loraweave.adapters.fields import check_expressions
from loraweave.adapters.tensors import trained_numbers
from loraweave.errors import UserError
from loraweave.runs.adapting import inject
from loraweave.runs.language import freeze_beside_language
from loraweave.runs.methods import MethodSpec, choose_method

TOLERANCE = 0.03


def count_trainable(spec: MethodSpec, base: PreTrainedModel, task_names: Sequence[str] = ("task",)) -> int:
    """Trainable parameters of a method on `base`, exact: the method is injected and its parameters are counted.

    Args:
        spec: the method.
        base: a model on the meta device, from `bases.empty_base`; it is not changed.
        task_names: the run's tasks, which set the size of task-wise parameters.

    Raises:
        UserError: the method does not fit the base.
    """
    return sum(_trainable_by_layer(spec, base, task_names).values())


def match_rank(
    spec: MethodSpec, base: PreTrainedModel, budget: int, task_names: Sequence[str] = ("task",)
) -> dict[str, Any]:
    """The method with the rank at which it trains `budget` parameters, within 3 %.

    The count grows in proportion to the rank (plus what does not depend on it). Where no rank of one size for all
    layers comes within 3 %, some layers get one more. The scaling of the update stays as it was. Where every rank is an
    expert (SMoRA), their number is matched instead, and with it how many speak.

    Args:
        spec: the method; its own `r` is replaced.
        base: a model on the meta device; it is not changed.
        budget: trainable parameters wanted.
        task_names: the run's tasks.

    Returns:
        The method as a mapping, ready for a run file.

    Raises:
        UserError: the method has no rank, cannot come near the budget, or goes on from an adapter with another number.
    """
    chosen = choose_method(spec)
    method = chosen.method
    if "r" not in method.fields():
        raise UserError(f"method {method.name} has no rank, so its parameters cannot be matched")
    if "adapter" in chosen.spec:  # it has a rank
        if abs((own := count_trainable(spec, base, task_names)) / budget - 1) > TOLERANCE:
            raise UserError(
                f"method {chosen.name}: the adapter that it goes on from trains {own:,} parameters and {budget:,} are "
                "wanted: name it first, so that the others are given as many, or match none"
            )
        return dict(chosen.spec)
    plain = {key: value for key, value in chosen.spec.items() if key not in ("rank_pattern", "alpha_pattern")}
    if getattr(method.config_class, "r", None) == 1:
        return _with_experts_for(plain, base, budget, task_names)

    def at(rank: int) -> dict[str, Any]:
        return _with_rank(plain, rank)

    at_one, at_two = (count_trainable(at(rank), base, task_names) for rank in (1, 2))
    rank = max(1, math.floor((budget - at_one) / (at_two - at_one)) + 1)
    off = {r: abs(count_trainable(at(r), base, task_names) / budget - 1) for r in (rank, rank + 1)}
    best = min(off, key=lambda r: off[r])
    if off[best] <= TOLERANCE:
        return at(best)
    return _near(_one_more_for_some(at(rank), base, budget, task_names), base, budget, task_names)


def _with_experts_for(
    spec: dict[str, Any], base: PreTrainedModel, budget: int, task_names: Sequence[str]
) -> dict[str, Any]:
    """The method with as many experts as train `budget` parameters; the same share of them speaks."""
    config: Any = choose_method(spec).peft_config(task_names)
    experts = max(2, round(config.num_heads * budget / count_trainable(spec, base, task_names)))
    top_k = max(2, round(config.top_k * experts / config.num_heads)) if config.top_k else None
    return _near({**spec, "num_heads": experts, "top_k": top_k}, base, budget, task_names)


def _near(spec: dict[str, Any], base: PreTrainedModel, budget: int, task_names: Sequence[str]) -> dict[str, Any]:
    """The method, found to train about as many parameters as are wanted."""
    reached = count_trainable(spec, base, task_names)
    if abs(reached / budget - 1) > TOLERANCE:
        name = choose_method(spec).method.name
        raise UserError(f"method {name}: {budget:,} trainable parameters cannot be matched; nearest {reached:,}")
    return spec


def _one_more_for_some(
    spec: Mapping[str, Any], base: PreTrainedModel, budget: int, task_names: Sequence[str]
) -> dict[str, Any]:
    """Give rank + 1 to layers, spread evenly over the depth, while that does not overshoot the budget."""
    rank = spec["r"]
    lower = _trainable_by_layer(spec, base, task_names)
    upper = _trainable_by_layer(_with_rank(spec, rank + 1), base, task_names)
    layers = [layer for layer in lower if upper[layer] > lower[layer]]
    missing, total = budget - sum(lower.values()), sum(upper.values()) - sum(lower.values())
    chosen, added, share = [], 0, 0.0
    for layer in layers:
        gain = upper[layer] - lower[layer]
        share += gain * missing / total
        if share - added >= gain / 2:
            chosen.append(layer)
            added += gain
    alpha = _with_rank(spec, rank + 1)["lora_alpha"]
    return {**spec, "rank_pattern": dict.fromkeys(chosen, rank + 1), "alpha_pattern": dict.fromkeys(chosen, alpha)}


def _with_rank(spec: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """The same method at another rank, with `lora_alpha` moved so that the scaling stays."""
    config: Any = choose_method(spec).peft_config()
    ratio = rank / config.r
    alpha = config.lora_alpha * (math.sqrt(ratio) if config.use_rslora else ratio)
    return {**spec, "r": rank, "lora_alpha": alpha}


def _trainable_by_layer(spec: MethodSpec, base: PreTrainedModel, task_names: Sequence[str]) -> dict[str, int]:
    """Trainable parameters per adapted layer, under the layer's path in the base."""
    chosen = choose_method(spec)
    if chosen.method.trains == "nothing":
        return {}
    model: Any = copy.deepcopy(base)
    config = chosen.peft_config(task_names, base)
    if config is None:
        model.requires_grad_(True)
        freeze_beside_language(model)
        return trained_numbers(model)
    check_expressions(config, [name for name, _ in base.named_modules()], f"method {chosen.name}")
    with torch.device("meta"):
        model = inject(model, config, chosen.name)
    prefix = f".{model.base_model.prefix}"
    counts: dict[str, int] = {}
    for name, count in trained_numbers(model).items():
        layer = name.removeprefix("base_model.model.").split(prefix)[0]
        counts[layer] = counts.get(layer, 0) + count
    return counts
