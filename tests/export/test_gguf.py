"""GGUF files: an adapter and a model, read back by other code than wrote them, for each shape of base."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_project import byte_tokenizer
from tiny_runs import BY_TASK, EXACT, NAMES, ROUTED, SMALL, random_run
from tiny_shapes import OTHERS, SIZES, write_shape
from transformers import AutoConfig, AutoModelForCausalLM

from loraweave.bases import load_base
from loraweave.errors import UserError
from loraweave.export import export, write
from loraweave.export.gguf_model import check_config
from loraweave.export.gguf_shapes import SHAPES
from loraweave.export.gguf_vocab import split_of
from loraweave.runs.attaching import attach

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")

READ = ("llama", "mistral", "qwen2")  # of these transformers reads all that a GGUF file says


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shapes")
    return {kind: write_shape(folder / kind, kind) for kind in SHAPES}


@pytest.mark.parametrize("name", EXACT)
def test_every_exact_method_becomes_an_adapter_of_llama_cpp(finished: Callable[..., Path], tmp_path, name: str):
    made = export(finished({"name": name, **SMALL}), "gguf", tmp_path / "out")
    assert [each.variant.task for each in made] == (NAMES if name in BY_TASK else [None])
    for each in made:
        assert each.largest <= 1e-5
        reader = gguf.GGUFReader(each.path / "adapter.gguf")
        fields = {name: field.contents() for name, field in reader.fields.items()}
        assert fields["general.type"] == "adapter"
        assert fields["adapter.type"] == "lora"
        assert fields["general.architecture"] == "llama"
        ranks = {int(t.shape[0]) for t in reader.tensors if t.name.endswith("lora_b")}
        assert ranks == {fields["adapter.lora.alpha"]}  # so that llama.cpp scales by 1
        assert len(reader.tensors) == 2 * 2 * 7


def test_rows_of_q_and_k_lie_as_llama_cpp_turns_them(finished, tmp_path):
    """Head by head, element i and element i + half, which transformers turns together, are neighbours there."""
    run = finished({"name": "lora", **SMALL})
    export(run, "gguf", tmp_path / "gguf")
    export(run, "lora", tmp_path / "lora")
    from safetensors.torch import load_file

    plain = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    tensors = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "gguf" / "adapter.gguf").tensors}
    for module, short, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
        before = plain[f"base_model.model.model.layers.1.self_attn.{module}.lora_B.weight"].numpy()
        after = tensors[f"blk.1.{short}.weight.lora_b"]
        size = len(before) // heads
        order = [
            head * size + i + half * size // 2 for head in range(heads) for i in range(size // 2) for half in (0, 1)
        ]
        np.testing.assert_array_equal(after, before[order])
    before = plain["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"].numpy()
    np.testing.assert_array_equal(tensors["blk.1.attn_v.weight.lora_b"], before)


@pytest.mark.parametrize("kind", SHAPES)
def test_an_adapter_for_each_shape(project, shapes, tmp_path, kind: str):
    run = random_run(project, {"name": "multilora", **SMALL}, tmp_path / "run", base=shapes[kind])
    (each,) = export(run, "gguf", tmp_path / "out")
    assert each.largest <= 1e-4 * max(1, each.differences["parity"].scale)
    fields = gguf.GGUFReader(each.path / "adapter.gguf").fields
    assert fields["general.architecture"].contents() == SHAPES[kind].architecture


@pytest.mark.parametrize("kind", SHAPES)
def test_a_merged_model_of_each_shape(project, shapes, tmp_path, kind: str):
    run = random_run(project, {"name": "multilora", **SMALL}, tmp_path / "run", base=shapes[kind])
    (each,) = export(run, "gguf-model", tmp_path / "out")
    assert each.exact
    assert each.largest <= 1e-4 * max(1, each.differences["parity"].scale)
    if kind in READ:
        ids = torch.randint(3, 250, (2, 20), generator=torch.Generator().manual_seed(0))
        found = AutoModelForCausalLM.from_pretrained(each.path, gguf_file="model.gguf", dtype=torch.float32)
        model = attach(load_base(shapes[kind])[0], run / "adapter").eval()
        with torch.no_grad():
            torch.testing.assert_close(found(ids).logits, model(ids).logits, rtol=1e-3, atol=1e-3)


def test_a_task_and_a_router_become_models(project, shapes, finished, tmp_path):
    run = random_run(project, {"name": "mtllora", **SMALL}, tmp_path / "run", base=shapes["llama"])
    (each,) = export(run, "gguf-model", tmp_path / "one", tasks=["double"])
    assert each.path == tmp_path / "one" / "double"
    assert each.largest <= 1e-4
    (each,) = export(finished({"name": ROUTED[0], **SMALL}), "gguf", tmp_path / "two", tasks=["parity"], limit=4)
    assert not each.exact
    assert each.differences["parity"].kl > 0


def test_half_precision_and_long_contexts(project, tmp_path):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    base = write_shape(tmp_path / "base", "llama", rope_parameters=rope)
    run = random_run(project, {"name": "lora", **SMALL}, tmp_path / "run", base=base)
    export(run, "gguf-model", tmp_path / "out")
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    (factors,) = (t.data for t in reader.tensors if t.name == "rope_freqs.weight")
    model = AutoModelForCausalLM.from_pretrained(base)
    plain = 10000.0 ** -(np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(plain / factors, model.model.rotary_emb.inv_freq.numpy(), rtol=1e-5)

    model, tokenizer = load_base(base)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    tokenizer.save_pretrained(tmp_path / "half")
    run = random_run(project, {"name": "lora", **SMALL}, tmp_path / "other", base=tmp_path / "half")
    (each,) = export(run, "gguf-model", tmp_path / "rounded")
    kinds = {t.name: t.tensor_type for t in gguf.GGUFReader(each.path / "model.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == gguf.GGMLQuantizationType.BF16
    assert kinds["blk.0.attn_norm.weight"] == gguf.GGMLQuantizationType.F32
    assert each.notes == ("added in float32 and rounded to bfloat16",)


def test_what_llama_cpp_would_compute_otherwise_is_refused_or_told(project, tmp_path):
    silu = write_shape(tmp_path / "silu", "mistral", sliding_window=8)
    run = random_run(project, {"name": "lora", **SMALL}, tmp_path / "run", base=silu)
    (each,) = export(run, "gguf-model", tmp_path / "my-model")
    assert "beyond 8 tokens" in " ".join(each.notes)
    name = gguf.GGUFReader(each.path / "model.gguf").fields["general.name"]
    assert name.contents() == "my-model"
    for kind, changes in {"llama": {"hidden_act": "relu"}, "gemma2": {"hidden_activation": "silu"}}.items():
        other = write_shape(tmp_path / kind, kind, **changes)
        run = random_run(project, {"name": "lora", **SMALL}, tmp_path / f"run-{kind}", base=other)
        with pytest.raises(UserError, match=r"activation is '(relu|silu)', and llama\.cpp computes"):
            export(run, "gguf-model", tmp_path / "none")


@pytest.mark.parametrize(
    ("pretokenizer", "name"),
    [
        ({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}, "gpt-2"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
                ],
            },
            "smollm",
        ),
        ({"type": "Whitespace"}, None),
    ],
)
def test_how_text_is_split_is_known_or_refused(pretokenizer, name):
    if name is not None:
        assert split_of({"pre_tokenizer": pretokenizer}) == name
        return
    with pytest.raises(UserError, match=r"llama\.cpp's own converter"):
        split_of({"pre_tokenizer": pretokenizer})


@pytest.mark.parametrize("cap", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_a_gemma_2_without_a_cap_is_refused(cap):
    """llama.cpp takes Gemma 2's own, 50 and 30, where a file says nothing."""
    config = AutoConfig.for_model("gemma2", **SIZES, **OTHERS["gemma2"])
    check_config(config)
    setattr(config, cap, None)
    with pytest.raises(UserError, match=f"{cap} is null"):
        check_config(config)


def test_a_tokenizer_that_cannot_be_written_is_refused_before_anything_is_measured(
    project, finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(write, "_prepare", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError, match="joins nothing"):
        export(finished({"name": "lora", **SMALL}), "gguf-model", tmp_path / "out", base=str(project / "base"))


def test_what_cannot_be_written_is_refused(project, finished, tmp_path):
    for method, words in (({"name": "dora", **SMALL}, "--merged"), ({"name": "rlora", **SMALL}, "--task NAME")):
        with pytest.raises(UserError, match=words):
            export(finished(method), "gguf", tmp_path / "out")
    opt = tmp_path / "opt"
    sizes = {"vocab_size": 259, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 1, "word_embed_proj_dim": 32}
    config = AutoConfig.for_model("opt", **sizes, num_attention_heads=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(opt)
    byte_tokenizer().save_pretrained(opt)
    for to in ("gguf", "gguf-model"):
        with pytest.raises(UserError, match="opt base is not one of llama"):
            export(finished({"name": "lora", **SMALL}), to, tmp_path / "out", base=str(opt))
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}
    other = write_shape(tmp_path / "yarn", "llama", rope_parameters=yarn)
    for base, words in ((other, "yarn"), (project / "base", "joins nothing")):
        with pytest.raises(UserError, match=words):
            export(finished({"name": "lora", **SMALL}), "gguf-model", tmp_path / "out", base=str(base))
    assert not (tmp_path / "out").exists()
