"""Full fine-tuning as a change of every weight: the right difference, in the right layout, from the right base."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from loraweave import UserError
from loraweave.analysis.full import FullUpdate
from loraweave.analysis.numbers import analyze
from loraweave.analysis.subjects import _notes


@pytest.fixture
def checkpoints(tiny_model, tmp_path):
    """checkpoints(architecture) -> folders of a base and of a model with random changes of all its weights."""

    def build(architecture):
        model = tiny_model(architecture)
        model.save_pretrained(tmp_path / "base")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.01)
        model.save_pretrained(tmp_path / "full")
        return tmp_path / "base", tmp_path / "full"

    return build


@pytest.mark.parametrize(
    ("architecture", "layer", "transposed"),
    [("llama", "model.layers.1.mlp.up_proj", False), ("gpt2", "transformer.h.0.attn.c_attn", True)],
)
def test_the_change_is_checkpoint_minus_base(checkpoints, tiny_model, architecture, layer, transposed):
    base, full = checkpoints(architecture)
    update = FullUpdate(full, str(base))
    before, after = (type(tiny_model(architecture)).from_pretrained(folder) for folder in (base, full))
    expected = (after.get_submodule(layer).weight - before.get_submodule(layer).weight).detach()
    expected = expected.T if transposed else expected
    torch.testing.assert_close(update.change(layer), expected)
    assert (update.sizes[layer].d_out, update.sizes[layer].d_in) == tuple(expected.shape)
    torch.testing.assert_close(
        update.decomposed(layer).values, torch.linalg.svdvals(expected.double()), rtol=1e-6, atol=1e-9
    )
    assert not update.missing
    assert not any("head" in name or "wte" in name for name in update.sizes)


def test_an_adapter_of_the_change_itself_overlaps_with_it(checkpoints, tiny_model, tmp_path):
    base, full = checkpoints("gpt2")
    update = FullUpdate(full, str(base))
    model = get_peft_model(tiny_model("gpt2"), LoraConfig(r=4, lora_alpha=4, target_modules=["c_attn"]))
    for i in range(2):
        layer = model.base_model.model.transformer.h[i].attn.c_attn
        left, values, right = torch.linalg.svd(update.change(f"transformer.h.{i}.attn.c_attn"))
        layer.lora_B["default"].weight.data = left[:, :4] * values[:4]
        layer.lora_A["default"].weight.data = right[:4]
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(tmp_path / "adapter-of-it")
    found = analyze([tmp_path / "adapter-of-it"], full=full)
    assert [run["kind"] for run in found["runs"]] == ["adapter", "full"]
    pairs = {pair["side"]: pair for pair in found["subspaces"]}
    assert set(pairs) == {"left", "right"}
    for pair in pairs.values():
        assert pair["ranks"] == [1, 2, 4]
        assert [pair["grid"][i][i] for i in range(3)] == pytest.approx([1, 1, 1], abs=1e-3)


@pytest.mark.long
def test_a_run_of_full_fine_tuning_needs_nothing_said(runs):
    found = analyze([runs["full"], runs["lora"]])
    assert {run["kind"] for run in found["runs"]} == {"adapter", "full"}
    assert found["subspaces"]
    again = analyze([runs["lora"]], full=runs["full"] / "model")
    row = next(row for row in found["spectrum_summary"] if (row["run"], row["module"]) == ("full", "all"))
    other = next(row for row in again["spectrum_summary"] if (row["run"], row["module"]) == ("full", "all"))
    assert row == other


def test_weights_of_no_linear_layer_are_left_out_and_said_to_be(checkpoints):
    base, full = checkpoints("mixtral")
    update = FullUpdate(full, str(base))
    assert {name.rpartition(".")[2] for name in update.sizes} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert {name.partition("mlp.")[2] for name in update.others} == {
        "gate.weight",
        "experts.gate_up_proj",
        "experts.down_proj",
    }
    assert " weights that are of no linear layer are left out, model.layers.0.mlp." in _notes("full", update)[0]
    assert _notes("full", FullUpdate(*map(str, checkpoints("gpt2")[::-1]))) == []


@pytest.mark.long
def test_a_change_as_large_as_the_weights_is_said(checkpoints, tiny_model, runs, tmp_path):
    other = tiny_model("llama", dtype=torch.float32)
    torch.manual_seed(7)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    other.save_pretrained(tmp_path / "other")
    notes = " ".join(analyze([runs["lora"]], full=tmp_path / "other")["notes"])
    assert "other: the change of" in notes
    assert "as large as the weight itself" in notes
    assert "as large as" not in " ".join(analyze([runs["full"]])["notes"])


def test_another_base_and_a_base_that_is_not_known_are_refused(checkpoints, tiny_model, runs, saved, tmp_path):
    base, full = checkpoints("llama")
    with pytest.raises(UserError, match="not fine-tuned from this base"):
        FullUpdate(full, "nano")
    with pytest.raises(UserError, match="what it was fine-tuned from is not known"):
        analyze([saved("lora")[1]], full=full)
    with pytest.raises(UserError, match="--full wants a run of full fine-tuning"):
        analyze([runs["lora"]], full=runs["rlora"])
    (full / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"model\.safetensors: the weights cannot be read"):
        FullUpdate(full, str(base))


def test_a_base_in_a_gguf_file_is_asked_for_as_a_folder(checkpoints):
    _, full = checkpoints("llama")
    with pytest.raises(UserError, match=r"model-Q4\.gguf: a GGUF file, .* with --base"):
        FullUpdate(full, "somewhere/model-Q4.gguf")
