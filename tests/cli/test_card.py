"""What a run leaves in its adapter's folder: a tokenizer, and a card that says what a stranger needs to know."""

import pytest
from transformers import AutoTokenizer

from loraweave.runs.config import RunConfig
from loraweave.runs.methods import choose_method
from loraweave.runs.outlook import outlook
from loraweave.runs.run_card import add_run_section


def test_an_adapter_travels_with_its_tokenizer_and_a_card(command, project, trained):
    adapter = trained / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    assert tokenizer("abc").input_ids == AutoTokenizer.from_pretrained(project / "base")("abc").input_ids
    card = (adapter / "README.md").read_text()
    for words in ("### parity", "### double", "### notes", "Double ", "loraweave export", "loraweave-autoload"):
        assert words in card
    assert "From parity.yaml" in card
    assert "## Scores" not in card
    assert card.index("answer:") > card.index("prompt:") > card.index("### parity")

    assert command("eval", trained, "--tasks", "parity")[0] == 0
    assert command("eval", trained, "--tasks", "notes")[0] == 0
    assert command("eval", trained, "--tasks", "notes")[0] == 0
    card = (adapter / "README.md").read_text()
    assert card.count("## Scores") == 1
    assert card.count("| `parity` |") == card.count("| `notes` |") == 1
    assert card.index("### notes") < card.index("## Scores") < card.index("## Using and exporting it")
    assert command("eval", trained, "--tasks", "double", "--limit", 2)[0] == 0
    assert "| `double` |" not in (adapter / "README.md").read_text()  # of a part, and no score of the task


def test_a_folder_without_a_card_is_left_alone(tmp_path):
    add_run_section(tmp_path, [], outlook(choose_method("lora")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "there", "missing"),
    [
        ("lora", ["a plain LoRA for PEFT", "--to merged", "--to gguf"], ["for each task", "loraweave serve"]),
        ("mtllora", ["a plain LoRA for each task", "full weights for each task"], ["loraweave serve"]),
        ("rlora", ["--to lora --task parity", "a plain LoRA for one task", "loraweave serve FOLDER"], ["--to merged"]),
        ("dora", ["--to merged"], ["--to lora", "--to gguf"]),
        ("mtlora", ["loraweave serve FOLDER"], ["loraweave export"]),
    ],
)
def test_the_card_names_what_can_be_done_with_the_method_and_nothing_else(project, tmp_path, method, there, missing):
    card = tmp_path / "README.md"
    card.write_text("# An adapter\n")
    tasks = RunConfig.load(project / "run.yaml").load_tasks()
    add_run_section(tmp_path, tasks, outlook(choose_method(method)))
    text = card.read_text()
    assert [words for words in there if words not in text] == []
    assert [words for words in missing if words in text] == []
