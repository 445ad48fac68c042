"""Behaviours of an adapter as a change of the weights: merged, unmerged, converted, summed, unloaded."""

import warnings
from pathlib import Path

import peft
import pytest
import torch
from compatibility.adapter_behaviours import trains_a_head
from compatibility.cases import TASKS, Case, assert_close, behaviour, disturb, layers_of

from loraweave import UserError

MERGING = "Merging"


def weighs_by_input(case: Case) -> bool:
    return case.depends_on_input


@behaviour(MERGING, refused=weighs_by_input)
def merge_and_unload(case: Case, folder: Path) -> None:
    """`merge_and_unload` for one task gives the same output from the base's own classes."""
    model = case.changed()
    expected = case.output(model, tasks="b")
    with case.one_task(model):
        merged = model.merge_and_unload()
    assert_close(case.output(merged, tasks=()), expected)
    assert not layers_of(merged)
    assert {n for n, _ in merged.named_parameters()} == {n for n, _ in case.architecture.build().named_parameters()}


@behaviour(MERGING, refused=weighs_by_input)
def merge_and_unmerge(case: Case, folder: Path) -> None:
    """`merge_adapter` and `unmerge_adapter` give the base's weights back bit for bit."""
    model = case.changed()
    weights = {n: p.clone() for n, p in model.named_parameters() if "weave_" not in n}
    expected = case.output(model, tasks="b")
    with case.one_task(model):
        model.merge_adapter()
    assert_close(case.output(model, tasks="b"), expected)
    model.unmerge_adapter()
    assert all(torch.equal(model.get_parameter(n), weight) for n, weight in weights.items())
    assert torch.equal(case.output(model, tasks="b"), expected)


@behaviour(MERGING, refused=weighs_by_input, everywhere=False)
def safe_merge(case: Case, folder: Path) -> None:
    """`safe_merge=True` refuses weights that are not finite and leaves the base as it was."""
    model = case.changed()
    expected = case.output(model, tasks="b")
    with case.one_task(model):
        model.merge_adapter(safe_merge=True)
        assert_close(case.output(model, tasks="b"), expected)
        model.unmerge_adapter()
        layer = layers_of(model)[0]
        before = layer.base_layer.weight.clone()
        layer.weave_A["default"].data[:, 0, 0] = float("nan")
        with pytest.raises(ValueError, match="NaN"):
            model.merge_adapter(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, before)


@behaviour(MERGING, refused=weighs_by_input)
def converted(case: Case, folder: Path) -> None:
    """PEFT's `convert_to_lora` for one task: a plain LoRA with the same output."""
    model = case.changed()
    expected = case.output(model, tasks="b")
    with warnings.catch_warnings(record=True) as said, case.one_task(model):
        warnings.simplefilter("always")
        try:
            config, tensors = peft.convert_to_lora(model, 1.0)
        except TypeError as error:  # PEFT's own, which does not say why; our warning before it does
            raise UserError(next(str(w.message) for w in said if "adapter" in str(w.message))) from error
    lora = peft.get_peft_model(case.architecture.build(), config).eval()
    assert not peft.set_peft_model_state_dict(lora, tensors).unexpected_keys
    assert_close(case.output(lora, tasks=()), expected, 1e-4)


def has_no_sum(case: Case) -> bool:
    return case.depends_on_input or trains_a_head(case)


@behaviour(MERGING, refused=has_no_sum)
def weighted_sum(case: Case, folder: Path) -> None:
    """`add_weighted_adapter` gives the sum of two adapters as one."""
    model = case.changed()
    model.add_adapter("two", case.config())
    disturb(model, "two")
    model.add_weighted_adapter(["default", "two"], [1.0, -0.5], "sum")
    layer = layers_of(model)[0]
    x = torch.randn(3, 7, layer.in_features)
    with layer.call_context.use(TASKS), torch.no_grad():
        base, update = layer.base_layer(x), {}
        for name in ("default", "two", "sum"):
            layer.set_adapter(name)
            update[name] = layer(x) - base
    assert_close(update["sum"], update["default"] - 0.5 * update["two"], 1e-4)


@behaviour(MERGING)
def unload(case: Case, folder: Path) -> None:
    """`unload` gives the base back, without hooks."""
    base = case.architecture.build()
    expected = case.output(base, tasks=())
    hooks = len(base._forward_pre_hooks), len(base._forward_hooks)
    model = case.changed(base)
    unloaded = model.unload()
    assert torch.equal(case.output(unloaded, tasks=()), expected)
    assert (len(unloaded._forward_pre_hooks), len(unloaded._forward_hooks)) == hooks
