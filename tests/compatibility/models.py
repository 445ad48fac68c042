"""Small random models, one per architecture: how each is built, called and scored.

A model has the same weights at every build, no dropout of its own, and is frozen, as under an adapter: some kernels
round otherwise where weights could get a gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

ROWS, TOKENS, VOCABULARY = 3, 7, 64
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    **SPECIAL,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GROUPED = {**SIZES, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Architecture:
    """One model: `build()` gives it, `inputs()` three examples with their labels, the same at every call.

    kind: "causal", "sequence", "token", "masked", "seq2seq", "image" or "plain"; what can be asked of it.
    targets: target_modules for it; `head`: a module that is trained whole, or None; `block`: what an adapter beside
    whole blocks stands beside, or None where the model has no such module.
    """

    name: str
    kind: str
    build: Callable[[], nn.Module]
    task_type: str | None = None
    targets: list[str] | str = "all-linear"
    head: str | None = None
    block: str | None = "mlp"
    traits: frozenset[str] = field(default_factory=frozenset)

    def inputs(self) -> dict[str, Tensor]:
        """Three examples with labels, as keyword arguments."""
        seed = torch.Generator().manual_seed(1)
        ids = torch.randint(3, VOCABULARY, (ROWS, TOKENS), generator=seed)
        if self.kind == "plain":
            return {"x": torch.randn(ROWS, TOKENS, 12, generator=seed), "labels": torch.zeros(ROWS, TOKENS, 5)}
        if self.kind == "image":
            return {"pixel_values": torch.randn(ROWS, 3, 8, 8, generator=seed), "labels": torch.tensor([0, 1, 2])}
        labels = {"sequence": torch.tensor([0, 1, 2]), "token": ids % 3}.get(self.kind, ids)
        inputs = {"input_ids": ids, "labels": labels}
        return inputs if self.kind == "causal" else {**inputs, "attention_mask": torch.ones_like(ids)}

    @property
    def tokens(self) -> int:
        """Vectors per example that go through the adapted layers: patches and one more for an image."""
        return 5 if self.kind == "image" else TOKENS

    @property
    def is_transformers(self) -> bool:
        return self.kind != "plain"

    @property
    def generates(self) -> bool:
        return self.kind in ("causal", "seq2seq")


class Mlp(nn.Module):
    """A model with no transformers in it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.head = nn.Linear(12, 24), nn.Linear(24, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.head(x + self.down(torch.relu(self.up(x))))


def from_config(auto: Any, model_type: str, settings: dict[str, Any]) -> Callable[[], nn.Module]:
    """A function that builds the model with these settings."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        model = auto.from_config(AutoConfig.for_model(model_type, **settings))
        return model.to(torch.float32).eval().requires_grad_(False)

    return build


def _mlp() -> nn.Module:
    torch.manual_seed(0)
    return Mlp().eval().requires_grad_(False)


def _causal(name: str, settings: dict[str, Any], *traits: str, **options: Any) -> Architecture:
    build = from_config(AutoModelForCausalLM, name, settings)
    return Architecture(name, "causal", build, "CAUSAL_LM", traits=frozenset(traits), **options)


def _other(name: str, kind: str, auto: Any, model_type: str, settings: dict, **options: Any) -> Architecture:
    return Architecture(name, kind, from_config(auto, model_type, settings), **options)


PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]
THREE = {"num_labels": 3}
PATCHES = {"image_size": 8, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT2 = {
    **{"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    **{"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0, **SPECIAL},
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}

# Traits: "tied" embeddings; "stateful" layers that carry more than keys and values from token to token;
# "absolute" positions that are counted and not read from position_ids.
ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        _causal("llama", GROUPED),
        _causal("qwen2", GROUPED),
        _causal("qwen3", {**GROUPED, "head_dim": 8}),
        _causal("mistral", {**GROUPED, "head_dim": 8}),
        _causal("gemma2", {**GROUPED, "head_dim": 8}, "tied"),
        _causal("phi3", GROUPED),
        _causal("gpt_neox", SIZES),
        _causal("gpt2", GPT2, "tied"),
        _causal(
            "opt",
            {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
            "tied",
            "absolute",
            block="self_attn",
        ),
        _causal("mixtral", {**GROUPED, "num_local_experts": 4}, block="self_attn"),
        _causal("mamba", {**SIZES, "state_size": 4}, "tied", "stateful", targets=["in_proj"], block="mixer"),
        _causal(
            "falcon_h1",
            {**GROUPED, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
            "stateful",
            targets=[*PROJECTIONS, "in_proj", "gate_proj", "up_proj", "down_proj"],
            block="feed_forward",
        ),
        _other(
            "llama (sequence classes)",
            "sequence",
            AutoModelForSequenceClassification,
            "llama",
            {**GROUPED, **THREE},
            task_type="SEQ_CLS",
            head="score",
        ),
        _other(
            "bert (sequence classes)",
            "sequence",
            AutoModelForSequenceClassification,
            "bert",
            {**SIZES, **THREE, **NO_DROPOUT},
            task_type="SEQ_CLS",
            head="classifier",
            block="attention",
        ),
        _other(
            "bert (token classes)",
            "token",
            AutoModelForTokenClassification,
            "bert",
            {**SIZES, **THREE, **NO_DROPOUT},
            task_type="TOKEN_CLS",
            head="classifier",
            block="attention",
        ),
        _other(
            "roberta (masked tokens)",
            "masked",
            AutoModelForMaskedLM,
            "roberta",
            {**SIZES, **NO_DROPOUT},
            block="attention",
        ),
        _other(
            "t5 (sequence to sequence)",
            "seq2seq",
            AutoModelForSeq2SeqLM,
            "t5",
            {"vocab_size": VOCABULARY, **T5, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2},
            task_type="SEQ_2_SEQ_LM",
            block="DenseReluDense",
        ),
        _other(
            "vit (image classes)",
            "image",
            AutoModelForImageClassification,
            "vit",
            {**PATCHES, **THREE, **NO_DROPOUT, "intermediate_size": 48},
            head="classifier",
        ),
        Architecture("a plain nn.Module", "plain", _mlp, targets=["up", "down"], head="head", block=None),
    )
}
