"""A formula says the same in every way it can be asked: by the letter, folded, as a mean, with a core per task."""

import pytest
import reference
import torch
from tiny_adapters import NAMES

from loraweave import WeaveConfig
from loraweave.adapters.tensors import first_values, scaling_of
from loraweave.lowrank.formula import Formula, formula_of

D_IN, D_OUT, TASKS = 7, 5, len(NAMES)
CONFIGS = [
    pytest.param(WeaveConfig(task_names=NAMES, **knobs), id="-".join(map(str, knobs.values())))
    for knobs in reference.combinations(NAMES)
]


def random_formula(config: WeaveConfig) -> tuple[Formula, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    shapes = first_values(config, "layer", D_IN, D_OUT)
    tensors = {
        name: tensor if tensor.dtype == torch.bool else torch.randn(tensor.shape, dtype=torch.float64)
        for name, tensor in shapes.items()
    }
    return formula_of(config, tensors, scaling_of(config.lora_alpha, config.r, config.use_rslora)), tensors


def by_hand(config: WeaveConfig, tensors: dict[str, torch.Tensor], x: torch.Tensor, task: int) -> torch.Tensor:
    """The update of x (T, d_in) for one task."""
    return reference.update(config, tensors, x, torch.full((len(x),), task))


@pytest.mark.parametrize("config", CONFIGS)
def test_by_the_letter(config: WeaveConfig):
    formula, tensors = random_formula(config)
    x = torch.randn(4, D_IN, dtype=torch.float64)
    for task in range(TASKS):
        found = formula.update(x, pick=lambda table, task=task: table[task])
        torch.testing.assert_close(found, by_hand(config, tensors, x, task), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("config", [c for c in CONFIGS if not c.values[0].depends_on_input])
def test_folds_exactly_for_every_task_and_for_their_mean(config: WeaveConfig):
    formula, tensors = random_formula(config)
    x = torch.eye(D_IN, dtype=torch.float64)
    dense = [by_hand(config, tensors, x, task).T for task in range(TASKS)]
    assert formula.num_tasks == (TASKS if config.needs_tasks else 0)
    for task, expected in enumerate(dense):
        lora_A, lora_B = formula.factors(task if formula.num_tasks else None)
        torch.testing.assert_close(lora_B @ lora_A, expected, rtol=1e-10, atol=1e-10)
    lora_A, lora_B = formula.mean_factors()
    torch.testing.assert_close(lora_B @ lora_A, sum(dense) / TASKS, rtol=1e-10, atol=1e-10)
    assert len(lora_A) <= len(formula.factors(0 if formula.num_tasks else None)[0]) * config.num_heads
    down, up, core = formula.task_core(TASKS)
    for task, expected in enumerate(dense):
        torch.testing.assert_close(up @ core[task] @ down, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("config", [c for c in CONFIGS if c.values[0].depends_on_input])
def test_a_router_folds_only_at_weights_that_are_given(config: WeaveConfig):
    formula, tensors = random_formula(config)
    task = 1 if config.task_transform else None
    for ask in (formula.head_weights, formula.factors, formula.mean_factors, lambda: formula.task_core(TASKS)):
        with pytest.raises(ValueError, match=r"input|task"):
            ask()
    tensors["weave_router"].zero_()  # uniform weights, whatever x is
    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    lora_A, lora_B = formula.factors(task, weights)
    x = torch.eye(D_IN, dtype=torch.float64)
    torch.testing.assert_close(lora_B @ lora_A, by_hand(config, tensors, x, task or 0).T, rtol=1e-10, atol=1e-10)


def test_one_head_alone_does_not_depend_on_its_router():
    config = WeaveConfig(r=2, gate="token")
    formula, _ = random_formula(config)
    assert not formula.depends_on_input
    lora_A, lora_B = formula.factors()
    x = torch.randn(3, D_IN, dtype=torch.float64)
    torch.testing.assert_close(x @ lora_A.T @ lora_B.T, formula.update(x), rtol=1e-10, atol=1e-10)


def test_a_task_must_be_named_where_tasks_are_told_apart():
    formula, _ = random_formula(WeaveConfig(r=2, num_heads=3, gate="task", task_names=NAMES))
    with pytest.raises(ValueError, match="2 tasks"):
        formula.factors()
