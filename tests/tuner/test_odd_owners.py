"""Models that treat their layers oddly: read weights without calling the layer, or rename what is loaded into them."""

from pathlib import Path

import peft
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from loraweave import MoeLoraConfig, UserError, WeaveConfig

SIZES = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
MAMBA_2 = {"num_heads": 4, "head_dim": 8, "state_size": 4, "n_groups": 1}


@pytest.mark.parametrize(
    ("model_type", "settings", "uncalled"),
    [("mamba", {"state_size": 4}, ["x_proj", "dt_proj", "out_proj"]), ("mamba2", MAMBA_2, ["out_proj"])],
)
def test_a_mamba_mixer_s_uncalled_layers_are_refused_and_can_be_left_out(model_type, settings, uncalled):
    def base():
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SIZES, **settings}))

    for name in uncalled:
        with pytest.raises(UserError, match=rf"mixer\.{name}: .*Mixer reads its weight.*exclude_modules=.*out_proj"):
            peft.get_peft_model(base(), WeaveConfig(r=2, target_modules=[name]))
    model = peft.get_peft_model(base(), WeaveConfig(r=2, exclude_modules=uncalled, init_weights=False))
    ids = torch.arange(5)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert grads
    assert all(g is not None and g.abs().sum() > 0 for g in grads)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)

    def forward(self, x, mask):
        return self.head(self.encoder(x, src_key_padding_mask=mask))


def test_torch_s_attention_output_is_refused():
    with pytest.raises(
        UserError, match=r"out_proj: MultiheadAttention reads its weight.*exclude_modules=\['out_proj'\]"
    ):
        peft.get_peft_model(Encoder(), WeaveConfig(r=2))


def test_torch_s_encoder_layer_needs_its_fused_kernel_off():
    config = WeaveConfig(r=2, exclude_modules=["out_proj"], init_weights=False)
    with pytest.raises(UserError, match=r"linear1: .*set_fastpath_enabled\(False\) first"):
        peft.get_peft_model(Encoder(), config)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        model = peft.get_peft_model(Encoder(), config).eval()
        x, mask = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        with torch.no_grad(), model.disable_adapter():
            base = model(x, mask)
        with torch.no_grad():
            assert not torch.allclose(model(x, mask)[0], base[0])
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_a_task_embedding_is_loaded_on_models_that_rename_what_they_load(tmp_path: Path):
    def base():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", **SIZES, state_size=4))

    config = MoeLoraConfig(r=2, task_names=["a", "b"], target_modules=["in_proj"])
    model = peft.get_peft_model(base(), config)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(base(), tmp_path)
    tensors = dict(loaded.named_parameters())
    assert all(torch.equal(p, tensors[n]) for n, p in model.named_parameters())
