"""The model card of a saved or pushed adapter: how to load it, what it is, and nobody else's README touched."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, ModelCard
from peft import get_peft_model
from tiny_adapters import METHODS, NAMES, NEED_TASKS, method

from loraweave.card import MARK


def built_on(tiny_model, folder: Path):
    """A base with a name, as one that was loaded has."""
    base = tiny_model()
    base.save_pretrained(folder)
    return type(base).from_pretrained(folder)


def check(card: ModelCard, name: str, base: str) -> None:
    assert card.data.library_name == "peft"
    assert card.data.base_model == base
    assert {"loraweave", name, "transformers"} <= set(card.data.tags)
    assert card.text.count(MARK) == 1
    assert "import loraweave" in card.text
    assert f"from_pretrained({base!r})" in card.text
    assert ("tasks=..." in card.text) == (name in NEED_TASKS)
    assert all(f"`{task}`" in card.text for task in NAMES) == (name in NEED_TASKS)


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_card_says_how_to_load_once(tiny_model, tmp_path: Path, name: str):
    model = get_peft_model(built_on(tiny_model, tmp_path / "base"), method(name))
    for _ in range(2):
        model.save_pretrained(tmp_path / "adapter")
        check(ModelCard.load(tmp_path / "adapter" / "README.md"), name, str(tmp_path / "base"))


def test_a_pushed_adapter_has_its_card(tiny_model, tmp_path: Path, monkeypatch):
    pushed: dict[str, str] = {}

    def create_commit(self, *, operations, **kwargs):
        pushed.update({op.path_in_repo: Path(op.path_or_fileobj).read_text("latin-1") for op in operations})

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: SimpleNamespace(repo_id="me/mine"))
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    model = get_peft_model(built_on(tiny_model, tmp_path / "base"), method("mtllora"))
    model.push_to_hub("me/mine")
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= pushed.keys()
    check(ModelCard(pushed["README.md"]), "mtllora", str(tmp_path / "base"))


def test_an_adapter_of_another_name_completes_the_card_above_it(tiny_model, tmp_path: Path):
    model = get_peft_model(built_on(tiny_model, tmp_path / "base"), method("rlora"), adapter_name="one")
    model.add_adapter("two", method("mlora"))
    model.save_pretrained(tmp_path / "adapters")
    card = ModelCard.load(tmp_path / "adapters" / "README.md")
    check(card, "rlora", str(tmp_path / "base"))
    assert "mlora" in card.data.tags


def test_a_readme_that_is_no_card_of_peft_stays(tmp_path: Path):
    for text in ("# My project\n", "---\nlibrary_name: transformers\n---\n# Somebody's\n", "---\nno yaml: [\n---\nx\n"):
        (tmp_path / "README.md").write_text(text)
        method("rlora").save_pretrained(tmp_path / "adapter")
        method("rlora").save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_text() == text
