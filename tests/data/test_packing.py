"""Packing: every example once, none split, and none seen by its neighbour."""

from collections.abc import Callable

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
)
from trl import pack_dataset

from loraweave.data.collate import Collator
from loraweave.data.packing import keeps_examples_apart, pack, split_into
from loraweave.data.rows import TokenRows
from loraweave.quiet import quiet_libraries

ARCHITECTURES = ["llama", "qwen2", "gpt2", "mixtral"]


LENGTHS = st.lists(st.integers(1, 24), min_size=1, max_size=40)


def packed_by_trl(lengths: list[int], max_length: int) -> list[int]:
    """Tokens of each row as TRL packs them, fullest first."""
    data = datasets.Dataset.from_dict({"input_ids": [[0] * length for length in lengths]})
    with quiet_libraries():
        return sorted(map(sum, pack_dataset(data, max_length, "bfd")["seq_lengths"]), reverse=True)


@given(LENGTHS, st.integers(24, 60))
@settings(max_examples=60, deadline=None)
def test_packing_is_best_fit_decreasing_as_in_trl(lengths: list[int], max_length: int) -> None:
    packs = pack(np.array(lengths), np.arange(len(lengths)), max_length)
    assert sorted(packs.examples) == list(range(len(lengths)))
    tokens = np.add.reduceat(np.array(lengths)[packs.examples], packs.starts[:-1])
    assert sorted(tokens, reverse=True) == packed_by_trl(lengths, max_length)


def test_packing_fills_rows_and_takes_examples_as_often_as_asked() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, size=300)
    order = np.random.default_rng(1).integers(300, size=2000)
    packs = pack(lengths, order, 64)
    assert sorted(packs.examples) == sorted(order)
    assert max(lengths[packs[row]].sum() for row in range(len(packs))) <= 64
    assert len(packs) <= 1.02 * lengths[order].sum() / 64


@given(LENGTHS, st.data())
def test_rows_are_divided_between_examples_and_none_is_empty(lengths: list[int], data: st.DataObject) -> None:
    packs = pack(np.array(lengths), np.arange(len(lengths)), 24)
    rows = data.draw(st.integers(len(packs), len(lengths)))
    divided = split_into(packs, rows)
    assert len(divided) == rows
    assert (np.diff(divided.starts) > 0).all()
    assert divided.examples.tolist() == packs.examples.tolist()
    assert set(packs.starts) <= set(divided.starts)


def test_positions_restart_and_labels_never_cross_examples(rows: TokenRows) -> None:
    batch = Collator(pad_token_id=0)([rows.joined([0, 1]), rows.joined([2])])
    first, second, third = (int(rows.lengths[i]) for i in range(3))
    assert batch["position_ids"][0].tolist() == [*range(first), *range(second)]
    longest = max(first, second, third)
    padding = [place % longest for place in range(first + second - third)]
    assert batch["position_ids"][1].tolist() == [*range(third), *padding]
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


def test_padding_needs_no_more_positions_than_the_examples(rows: TokenRows) -> None:
    longest = max(int(rows.lengths[example]) for example in (0, 1, 2, 3))
    batch = Collator(pad_token_id=0)([rows.joined([0, 1, 2, 3, 0, 1, 2]), rows.joined([3])])
    assert batch["padding"].sum() > longest > batch["position_ids"].max()
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": int(batch["input_ids"].max()) + 1}
    model = GPT2LMHeadModel(GPT2Config(**sizes, n_positions=longest, bos_token_id=0, eos_token_id=0)).eval()
    with torch.no_grad():
        alone = model(input_ids=torch.as_tensor(rows.joined([3])["input_ids"])[None]).logits[0]
        together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[1]
    torch.testing.assert_close(together[: len(alone)], alone, atol=1e-5, rtol=1e-4)


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


SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1}
EXPERTS |= {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}


@pytest.mark.parametrize(
    ("kind", "more", "dtype"),
    [
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, torch.float32),  # reaches two tokens back
        ("qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"]}, torch.bfloat16),
        ("qwen3_next", EXPERTS, torch.float32),
    ],
)
def test_what_little_runs_along_the_row_is_seen(kind: str, more: dict, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SMALL, **TOKENS, **more})
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    assert not keeps_examples_apart(model)
    if model._is_stateful:
        with torch.device("meta"):  # as a dry run has it
            assert not keeps_examples_apart(AutoModelForCausalLM.from_config(config))


def test_experts_that_round_with_all_their_tokens_are_packed(tiny_model: Callable) -> None:
    assert keeps_examples_apart(tiny_model("mixtral").to(torch.bfloat16))


def test_blank_rows_have_no_token_and_change_nothing(rows: TokenRows) -> None:
    plain = Collator(pad_token_id=0)([rows.joined([0]), rows.joined([1])])
    batch = Collator(pad_token_id=0)([rows.joined([0]), rows.joined([1]), rows.joined([])])
    for key in ("input_ids", "labels", "tasks", "padding"):
        assert torch.equal(batch[key][:2], plain[key])
    assert batch["padding"][2].all()
    assert torch.equal(batch["scored"], plain["scored"])
    assert batch["tokens"] == plain["tokens"]
    blank = Collator(pad_token_id=0)([rows.joined([])])
    assert blank["input_ids"].shape == (1, 1)
    assert blank["padding"].all()
    assert (len(blank["scored"]), blank["tokens"]) == (0, 0)
