"""What a run leaves in its adapter's folder: a tokenizer, and a card that says what a stranger needs to know."""

from transformers import AutoTokenizer

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
    add_run_section(tmp_path, [])
    assert not list(tmp_path.iterdir())
