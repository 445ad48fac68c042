"""Packing: every example once, none split, none seen by its neighbour; and an order that is fixed beforehand."""

from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from loraweave.data.collate import Collator
from loraweave.data.packing import RowPlan, keeps_examples_apart, pack
from loraweave.data.rows import TokenRows

ARCHITECTURES = ["llama", "qwen2", "gpt2", "mixtral"]


def test_packing_keeps_every_example_whole() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, size=300)
    order = np.random.default_rng(1).permutation(300)[:250]
    packs = pack(lengths, order, 64)
    assert sorted(chain.from_iterable(packs)) == sorted(order)
    assert all(lengths[list(p)].sum() <= 64 for p in packs)
    assert len(packs) <= 1.1 * lengths[order].sum() / 64


def test_every_epoch_has_its_own_order_and_all_are_equally_long(rows: TokenRows) -> None:
    def plan(seed: int) -> RowPlan:
        return RowPlan(rows, lambda _: range(len(rows)), max_length=30, packing=True, seed=seed, epochs=3)

    first, again, other = plan(0), plan(0), plan(1)
    assert first.packs == again.packs != other.packs
    epochs = [first.packs[i * len(first) : (i + 1) * len(first)] for i in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert all(sorted(chain.from_iterable(packs)) == list(range(len(rows))) for packs in epochs)


def test_epochs_that_pack_differently_get_the_same_number_of_rows(rows: TokenRows) -> None:
    long, short = [1, 3, 5, 7, 9, 11], [0, 2, 4, 6, 8, 10]
    plan = RowPlan(rows, lambda epoch: (long, short)[epoch % 2], max_length=20, packing=True, seed=0, epochs=2)
    half = len(plan)
    assert len(plan.packs) == 2 * half
    assert sorted(chain.from_iterable(plan.packs[:half])) == long
    assert sorted(chain.from_iterable(plan.packs[half:])) == short


def test_a_plan_is_as_long_as_the_steps_asked_for(rows: TokenRows) -> None:
    plan = RowPlan(rows, lambda _: range(len(rows)), max_length=64, packing=False, seed=0, minimum=30)
    assert len(plan.packs) == 36


def test_positions_restart_and_labels_never_cross_examples(rows: TokenRows) -> None:
    batch = Collator(pad_token_id=0)([rows.joined([0, 1]), rows.joined([2])])
    first, second, third = (int(rows.lengths[i]) for i in range(3))
    assert batch["position_ids"][0].tolist() == [*range(first), *range(second)]
    assert batch["position_ids"][1].tolist() == [*range(third), *range(first + second - third)]
    assert batch["tasks"][0].tolist() == [0] * first + [1] * second
    assert batch["labels"][0, first] == -100
    assert batch["tokens"] == first + second + third
    targets = batch["labels"].flatten()[batch["scored"] + 1]
    assert (targets != -100).all()
    assert len(targets) == (batch["labels"] != -100).sum()


def test_rows_of_one_example_take_the_causal_path(rows: TokenRows) -> None:
    assert "position_ids" not in Collator(pad_token_id=0)([rows.joined([0]), rows.joined([1])])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_packed_row_has_the_logits_of_the_separate_rows(
    tiny_model: Callable, rows: TokenRows, architecture: str, attention: str
) -> None:
    model = tiny_model(architecture)
    model.set_attn_implementation(attention)
    packed = Collator(pad_token_id=0)([rows.joined([1, 0, 3]), rows.joined([5, 2])])
    assert keeps_examples_apart(model)
    with torch.no_grad():
        together = model(input_ids=packed["input_ids"], position_ids=packed["position_ids"], use_cache=False).logits
        for row, examples in enumerate([[1, 0, 3], [5, 2]]):
            start = 0
            for example in examples:
                alone = model(input_ids=torch.as_tensor(rows.joined([example])["input_ids"])[None]).logits[0]
                torch.testing.assert_close(together[row, start : start + len(alone)], alone, atol=1e-5, rtol=1e-4)
                start += len(alone)


def test_one_flat_row_has_the_logits_of_the_separate_rows(tiny_model: Callable, rows: TokenRows) -> None:
    batch = Collator(pad_token_id=0, one_row=True)([rows.joined([1, 0]), rows.joined([2])])
    assert batch["input_ids"].shape[0] == 1
    model = tiny_model("llama")
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[0]
        alone = model(input_ids=torch.as_tensor(rows.joined([2])["input_ids"])[None]).logits[0]
    torch.testing.assert_close(together[-len(alone) :], alone, atol=1e-5, rtol=1e-4)


def test_an_architecture_whose_mask_ignores_positions_is_not_packed(tiny_model: Callable) -> None:
    assert not keeps_examples_apart(tiny_model("opt"))


def test_an_architecture_whose_state_runs_along_the_row_is_not_packed() -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=1))
    assert not keeps_examples_apart(model)
