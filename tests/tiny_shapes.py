"""Random bases of the shapes that llama.cpp knows, with tokenizers that join bytes as GPT-2's or pieces as
SentencePiece's do."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

WORDS = 400
CORPUS = [
    "What is the capital of France?\nAnswer: Paris is the capital.",
    "the quick brown fox jumps over the lazy dog, again and again and again",
    "positive negative yes no maybe\nTopic: Business World Sports",
    "Double abx: abxabx. Note 12: remember 0. 37 is odd, 12345 too; it's one's own.",
] * 8
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OTHERS = {
    "gemma2": {"query_pre_attn_scalar": 8, "sliding_window": 16},
    "gemma3_text": {"query_pre_attn_scalar": 8, "sliding_window": 16},
    "mistral": {"sliding_window": None},
}
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def write_shape(folder: Path, kind: str, **changes) -> Path:
    """A random base of a shape whose norms and biases all do something."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **OTHERS.get(kind, {}), **changes})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    pieces_of(kind).save_pretrained(folder)
    return folder


def pieces_of(kind: str) -> PreTrainedTokenizerFast:
    """The kind of tokenizer that models of a shape have."""
    return pieces() if kind.startswith(("gemma", "mistral")) else bytewise(qwen=kind.startswith("qwen"))


def bytewise(qwen: bool = False) -> PreTrainedTokenizerFast:
    """Bytes under GPT-2's names, joined; with Qwen's way of splitting text, or with GPT-2's and a start token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if qwen:
        split = pre_tokenizers.Split(Regex(QWEN), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if not qwen:
        tokenizer.post_processor = _starting()
    return _fast(tokenizer)


def pieces() -> PreTrainedTokenizerFast:
    """SentencePiece's: spaces are marked, text is joined from characters, and what is unknown becomes bytes."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learning = Tokenizer(models.BPE())
    learning.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=WORDS - 260, show_progress=False)
    learning.train_from_iterator(CORPUS, trainer)
    learned = learning.get_vocab(with_added_tokens=False)
    ordered = sorted(learned, key=learned.__getitem__)
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    every = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *ordered]
    merges = [tuple(merge) for merge in json.loads(learning.to_str())["model"]["merges"]]
    vocabulary = {token: number for number, token in enumerate(every)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.post_processor = _starting()
    return _fast(tokenizer, unk_token="<unk>")


def _starting() -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])


def _fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=64, **special
    )
