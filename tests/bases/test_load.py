"""Base models by name: what loads, and what is said when something is missing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_project import byte_tokenizer, write_base
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from loraweave.bases import check_fingerprint, empty_base, fingerprint, load_base
from loraweave.bases import load as load_module
from loraweave.data.border import continued_ids
from loraweave.errors import UserError

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260k"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bases") / "tiny"
    write_base(path)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_folder_loads_with_a_padding_token(folder: Path) -> None:
    model, tokenizer = load_base(folder)
    assert not model.training
    assert next(model.parameters()).dtype == (torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    assert model.config.pad_token_id == tokenizer.pad_token_id is not None


def test_padding_falls_back_to_the_end_of_text(copy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(copy)
    _, loaded = load_base(copy)
    assert loaded.pad_token == loaded.eos_token


@pytest.mark.parametrize(
    ("pattern", "words"), [("config.json", "config.json"), ("*.safetensors", "weights"), ("tokenizer*", "tokenizer")]
)
def test_a_folder_that_lacks_something_is_named(copy: Path, pattern: str, words: str) -> None:
    for file in copy.glob(pattern):
        file.unlink()
    with pytest.raises(UserError, match=words) as error:
        load_base(copy)
    assert str(copy) in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_cut_short_are_named(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="copy: the weights cannot be read"):
        load_base(copy)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"num_hidden_layers": 3}, r"weights lack model\.layers\.2\..* and \d+ more"),
        ({"intermediate_size": 40}, r"mlp.* has the size .*48.*, and config.json wants .*40"),
        ({"vocab_size": 200}, r"embed_tokens.*config.json wants \(200, 32\)"),
    ],
)
def test_weights_that_do_not_fill_the_model_are_refused(copy: Path, changed: dict[str, int], words: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **changed}))
    with pytest.raises(UserError, match=words) as error:
        load_base(copy)
    assert str(copy) in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("tokenizer.json", None, "Couldn't instantiate the backend tokenizer from one of: .+"),
        ("tokenizer.json", "{}", "one of its files lacks 'added_tokens'"),
    ],
)
def test_a_broken_tokenizer_is_one_full_sentence(copy: Path, file: str, content: str | None, words: str) -> None:
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_text(content)
    with pytest.raises(UserError, match=words) as error:
        load_base(copy)
    assert "\n" not in str(error.value)


def test_a_missing_folder_and_a_name_out_of_reach_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_base("./nowhere")
    monkeypatch.setattr(load_module.hub_settings, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"'nobody/no-model' is neither a folder nor found on the hub.*offline"):
        load_base("nobody/no-model")


def test_an_unknown_dtype_lists_the_known(folder: Path) -> None:
    with pytest.raises(UserError, match="bfloat16"):
        load_base(folder, dtype="bf17")


def test_an_empty_base_has_the_shapes_and_no_weights(folder: Path) -> None:
    empty, (full, _) = empty_base(folder), load_base(folder)
    assert {n: p.shape for n, p in empty.named_parameters()} == {n: p.shape for n, p in full.named_parameters()}
    assert all(p.is_meta for p in empty.parameters())


def test_the_fingerprint_is_of_the_base_alone(folder: Path) -> None:
    model, _ = load_base(folder, dtype="float32")
    before = fingerprint(model)
    assert fingerprint(load_base(folder, dtype="bfloat16")[0]) == before
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], modules_to_save=["norm"]))
    assert fingerprint(adapted) == before
    check_fingerprint(adapted, before, "run")


def test_another_base_is_refused(folder: Path) -> None:
    model, _ = load_base(folder)
    before = fingerprint(model)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.05)
    with pytest.raises(UserError, match=r"my-run: this base .* is not the one the adapter was trained on"):
        check_fingerprint(model, before, "my-run")


@pytest.mark.skipif(not STORIES.is_dir(), reason=f"{STORIES} is not there")
def test_a_checkpoint_made_elsewhere_writes_english() -> None:
    model, tokenizer = load_base(STORIES)
    prompt = tokenizer("Once upon a time, there was a", return_tensors="pt")
    text = tokenizer.decode(model.generate(**prompt, max_new_tokens=20, do_sample=False)[0])
    assert "little" in text


def test_the_embedded_base_loads_where_it_is_installed() -> None:
    if not (load_module.EMBEDDED / "config.json").is_file():
        with pytest.raises(UserError, match="'nano' is not in this installation"):
            load_base("nano")
        return
    model, tokenizer = load_base("nano")
    assert tokenizer.eos_token_id is not None
    assert sum(p.numel() for p in model.parameters()) < 20_000_000


def test_special_tokens_that_a_text_model_has_no_row_for_are_let_be_until_one_is_used(copy: Path) -> None:
    """As of Gemma 3's text models, whose tokenizer knows the place of an image."""
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(copy)
    model, tokenizer = load_base(copy)
    assert max(tokenizer.get_vocab().values()) == len(model.get_input_embeddings().weight)
    assert continued_ids("Where is", " it?", tokenizer)[1]
    for prompt, answer in (("<image_soft_token> where is", " it?"), ("Where is", " <image_soft_token>")):
        with pytest.raises(UserError, match=r"the text holds '<image_soft_token>', .* no row"):
            continued_ids(prompt, answer, tokenizer)


@pytest.mark.parametrize("added", [{"pad_token": "<image_soft_token>"}, ["picture"]])
def test_tokens_that_are_met_in_any_text_need_a_row(copy: Path, added: object) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_special_tokens(added) if isinstance(added, dict) else tokenizer.add_tokens(added)
    tokenizer.save_pretrained(copy)
    with pytest.raises(UserError, match="the tokenizer has 260 tokens, and the model's embedding 259 rows"):
        load_base(copy)


def test_an_adapter_beside_a_model_is_not_put_on_it_unasked(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What passed for the base would be the adapted model, and what was trained would take that adapter's place."""
    model, _ = load_base(copy)
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(copy)
    for look in (load_module.check_folder, lambda _: None):  # a name on the hub has no folder to look into
        monkeypatch.setattr(load_module, "check_folder", look)
        with pytest.raises(UserError, match=r"copy: holds an adapter beside the model .* which of the two is the base"):
            load_base(copy)


def written(folder: Path, kind: str, **settings: object) -> Path:
    """A folder with a random model of two layers and a tokenizer."""
    tokenizer = byte_tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **sizes, **ids, **settings)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["bert", "roberta", "roformer", "gemma3_text"])
def test_a_model_that_sees_what_comes_after_a_token_is_refused(tmp_path: Path, kind: str) -> None:
    """BERT and its family as they come, whose answers would be given to them; and embedding models like Gemma's."""
    more = {"use_bidirectional_attention": True, "head_dim": 8} if kind == "gemma3_text" else {}
    base = written(tmp_path / kind, kind, **more)
    with pytest.raises(UserError, match=rf"{kind}: {kind} is no causal language model: .* given the answers"):
        load_base(base)
    if kind in ("bert", "roberta"):
        with pytest.raises(UserError, match="no causal language model"):
            empty_base(base)


@pytest.mark.parametrize(("kind", "more"), [("bert", {"is_decoder": True}), ("gpt_neox_japanese", {})])
def test_a_causal_model_whose_configuration_leaves_that_open_is_tried(tmp_path: Path, kind: str, more: dict) -> None:
    assert load_base(written(tmp_path / kind, kind, **more))
    assert empty_base(tmp_path / kind)
