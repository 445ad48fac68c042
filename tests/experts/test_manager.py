"""The manager: a library's experts routed to, merged in turn, and answering in one batch, the same each time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_experts import bits, count_words
from transformers import AutoModelForCausalLM

from loraweave import ExpertLibrary, ExpertManager, UserError
from loraweave.bases import load_base
from loraweave.errors import Notice
from loraweave.files import write_json

PROMPTS = ["Go on: a", "Stop", "abc abc abc", "x"]


@pytest.fixture
def manager(library: ExpertLibrary) -> ExpertManager:
    library.describe("small", description="red", prefixes=["Go on"])
    library.describe("wide", description="blue sum")
    return ExpertManager(library, embed=count_words, memory=10**9, device="cpu")


def answer(model: Any, tokenizer: Any, prompt: str, last: int = 0) -> str:
    ids = torch.tensor([tokenizer(prompt)["input_ids"][-last:]])
    how = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": 2}
    written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how)
    return tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)


def test_merged_in_turn_and_mixed_in_one_batch_answer_alike(manager: ExpertManager, base_folder: Path) -> None:
    names = ["small", "base", "wide", "patterns"]
    before = bits(manager.model)
    mixed = manager.generate(PROMPTS, names, max_new_tokens=5)
    in_turn = []
    for prompt, name in zip(PROMPTS, names, strict=True):
        with manager.using(name) as model:
            in_turn.append(answer(model, manager.tokenizer, prompt))
    assert mixed == in_turn
    for prompt, name, said in zip(PROMPTS, names, mixed, strict=True):
        alone: Any = AutoModelForCausalLM.from_pretrained(base_folder).eval()
        if name != "base":
            alone = PeftModel.from_pretrained(alone, str(manager.library.expert(name).folder)).eval()
        assert answer(alone, manager.tokenizer, prompt) == said
    assert manager.generate(PROMPTS, names, max_new_tokens=5) == mixed  # with an expert merged just now
    manager.close()
    assert bits(manager.model) == before
    assert manager.generate([], "base") == []


def test_prompts_longer_than_the_model_reads_lose_their_beginning(manager: ExpertManager) -> None:
    long = "".join(chr(97 + number % 26) for number in range(100))
    with pytest.warns(Notice, match="1 prompts are longer than the model reads"):
        said, short = manager.generate([long, "x"], ["small", "wide"], max_new_tokens=5)
    with manager.using("small") as model:
        assert said == answer(model, manager.tokenizer, long, last=64 - 5)
    assert [short] == manager.generate(["x"], "wide", max_new_tokens=5)


def test_requests_that_name_nobody_are_routed(manager: ExpertManager) -> None:
    assert manager.route("Go on: b").by == "prefix"
    assert manager.route("a sum").expert == "wide"
    assert manager.route("nothing").expert is None
    asked = ["Go on: b", "a sum", "nothing", "Go on: b"]
    routed = manager.generate(asked, ["auto", "auto", "auto", "patterns"], max_new_tokens=4)
    assert routed == manager.generate(asked, ["small", "wide", None, "patterns"], max_new_tokens=4)


def test_what_changes_in_the_library_is_taken_over(
    manager: ExpertManager, make_lora: Callable, loras: dict[str, Path], tmp_path: Path
) -> None:
    library = manager.library
    first = manager.generate(["abc"] * 2, ["small", "wide"], max_new_tokens=5)
    with manager.using("small") as model:
        merged = bits(model)
    library.add(make_lora(tmp_path / "new", 7, r=4, target_modules=["v_proj", "down_proj"]), "small", replace=True)
    library.add(loras["small"], "again")
    library.remove("patterns")
    manager.refresh()
    assert manager.experts == ["small", "wide", "again"]
    second = manager.generate(["abc"] * 3, ["small", "wide", "again"], max_new_tokens=5)
    assert (second[1], second[2]) == (first[1], first[0])
    with manager.using("small") as model:
        assert bits(model) != merged
    with manager.using("again") as model:
        assert bits(model) == merged
    with pytest.raises(UserError, match="no expert 'patterns'"):
        manager.generate(["abc"], "patterns")


def test_what_was_read_before_it_was_refreshed_is_taken_over_too(
    manager: ExpertManager, make_lora: Callable, loras: dict[str, Path], tmp_path: Path
) -> None:
    library = manager.library
    said = dict(zip(loras, manager.generate(["abc"] * 3, [*loras], max_new_tokens=5), strict=True))
    merged = {}
    for name in loras:
        with manager.using(name) as model:
            merged[name] = bits(model)
    library.add(loras["wide"], "new")  # unknown to the manager, who reads it all the same
    assert manager.generate(["abc"], "new", max_new_tokens=5) == [said["wide"]]
    library.add(loras["patterns"], "small", replace=True)
    manager.switcher.forget(["small"])
    for name, old in (("new", "wide"), ("small", "patterns")):  # small is merged as it is now, and beside as it was
        with manager.using(name) as model:
            assert bits(model) == merged[old]
    library.add(loras["small"], "new", replace=True)
    manager.refresh()
    assert manager.generate(["abc"] * 2, ["new", "small"], max_new_tokens=5) == [said["small"], said["patterns"]]
    with manager.using("new") as model:
        assert bits(model) == merged["small"]
    library.describe("new", description="sum")
    manager.refresh()
    assert (manager.switcher.active, manager.route("sum").expert) == ("new", "new"), "what is said of it merges nothing"
    library.remove("new")
    manager.refresh()
    with pytest.raises(UserError, match="no expert 'new'"):
        manager.generate(["abc"], "new")
    with pytest.raises(UserError, match="no expert 'new'"), manager.using("new"):
        pass


def test_an_expert_in_use_is_kept_to_the_end_of_its_block(manager: ExpertManager, loras: dict[str, Path]) -> None:
    with manager.using("small") as model:
        before = bits(model)
        manager.library.remove("small")
        for change in (manager.refresh, lambda: manager.generate(["abc"], "wide")):
            with pytest.raises(UserError, match="expert 'small' is in use"):
                change()
            assert (bits(model), manager.experts) == (before, [*loras])
    manager.refresh()
    assert "small" not in manager.experts


def test_a_base_that_is_another_one_and_wrong_requests_are_refused(
    manager: ExpertManager, base_folder: Path, make_lora: Callable, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="2 prompts and 1 experts"):
        manager.generate(["a", "b"], ["small"])
    with pytest.raises(UserError, match="here are both"):
        manager.generate(["a", [{"role": "user", "content": "b"}]], "small")
    model, tokenizer = load_base(base_folder)
    lora = make_lora(tmp_path / "lora")
    write_json(lora / "base.json", {"name": str(base_folder), "fingerprint": "0" * 16})
    manager.library.add(lora, "marked")
    with pytest.raises(UserError, match="is not the one the adapter was trained on"):
        ExpertManager(manager.library, (model, tokenizer))


def test_a_change_that_cannot_be_routed_by_leaves_all_as_it_was(manager: ExpertManager) -> None:
    router, names = manager.router, manager.experts
    manager.library.remove("patterns")
    manager.library.describe("wide", prefixes=["Go on"])
    for _ in range(2):
        with pytest.raises(UserError, match="is the prefix of two experts"):
            manager.refresh()
    assert (manager.router, manager.experts) == (router, names)
    manager.library.describe("wide", prefixes=["Go off"])
    manager.refresh()
    assert (manager.experts, manager.route("Go off").expert) == (["small", "wide"], "wide")
    router = manager.router
    manager.refresh()
    assert manager.router is router, "nothing is embedded anew where nothing has changed"
