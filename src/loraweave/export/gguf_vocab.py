"""A tokenizer as llama.cpp wants it: tokens with kinds and scores, and how text is split before they are found."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from loraweave.bases.gguf import import_gguf
from loraweave.export.gguf_shapes import unknown

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}": "qwen2",
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}": "llama-bpe",
}
"""llama.cpp's names of the expressions by which text is split."""


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError if a tokenizer cannot be written so that llama.cpp does the same."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if _is_bytewise(backend):
        split_of(backend)


def add_vocabulary(writer: Any, tokenizer: PreTrainedTokenizerBase, size: int, folder: Path) -> None:
    """Add a tokenizer to a file.

    Args:
        writer: a `gguf.GGUFWriter`.
        tokenizer: a fast one.
        size: rows of the model's embeddings; numbers that the tokenizer does not use are filled up.
        folder: that the tokenizer's files lie in.

    Raises:
        UserError: it splits text in a way that llama.cpp would not follow.
    """
    gguf = import_gguf()
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    bytewise = _is_bytewise(backend)
    writer.add_tokenizer_model("gpt2" if bytewise else "llama")
    writer.add_tokenizer_pre(split_of(backend) if bytewise else "default")
    tokens, kinds = _tokens(tokenizer, size, gguf.TokenType)
    writer.add_token_list(tokens)
    if not bytewise:
        writer.add_token_scores(_scores(backend["model"], tokens))
        prepends = (backend.get("pre_tokenizer") or {}).get("prepend_scheme", "never") != "never"
        writer.add_add_space_prefix(prepends or "Prepend" in json.dumps(backend.get("normalizer")))
    writer.add_token_types(kinds)
    special = gguf.SpecialVocab(folder, load_merges=bytewise, n_vocab=size)
    start = tokenizer.bos_token_id
    special.add_special_token["bos"] = start is not None and tokenizer("a").input_ids[0] == start
    if tokenizer.chat_template and isinstance(tokenizer.chat_template, str):
        special.chat_template = tokenizer.chat_template
    special.add_to_gguf(writer, quiet=True)


def split_of(backend: dict[str, Any]) -> str:
    """llama.cpp's name of how a byte-level tokenizer splits text; `backend`: its tokenizer.json."""
    found = backend.get("pre_tokenizer") or {}
    parts = found.get("pretokenizers", [found])
    match [part.get("type") for part in parts], parts:
        case ["ByteLevel"], [{"use_regex": True, "add_prefix_space": False}]:
            return "gpt-2"
        case ["Digits", "ByteLevel"], [{"individual_digits": True}, {"use_regex": True, "add_prefix_space": False}]:
            return "smollm"
        case ["Split", "ByteLevel"], [{"pattern": {"Regex": pattern}}, {"use_regex": False}] if pattern in SPLITS:
            return SPLITS[pattern]
    raise unknown("the tokenizer splits text in a way that is not known here")


def _is_bytewise(backend: dict[str, Any]) -> bool:
    """Whether tokens are bytes under GPT-2's names; else they are SentencePiece's, with bytes for what is unknown."""
    if backend["model"]["type"] != "BPE":
        raise unknown(f"the tokenizer is a {backend['model']['type']}, and only BPE can be written here")
    if not backend["model"]["merges"]:
        raise unknown("the tokenizer joins nothing, and llama.cpp wants one with merges")
    return not backend["model"].get("byte_fallback", False)


def _tokens(tokenizer: PreTrainedTokenizerBase, size: int, kind: Any) -> tuple[list[str], list[int]]:
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, kinds = [], []
    for number in range(size):
        token = names.get(number, f"[PAD{number}]")
        tokens.append(token)
        if number not in names:
            kinds.append(kind.UNUSED)
        elif token == tokenizer.unk_token:
            kinds.append(kind.UNKNOWN)
        elif number in added:
            kinds.append(kind.CONTROL if added[number].special else kind.USER_DEFINED)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kinds.append(kind.BYTE)
        else:
            kinds.append(kind.NORMAL)
    return tokens, kinds


def _scores(model: dict[str, Any], tokens: list[str]) -> list[float]:
    """SentencePiece joins the pair with the highest score first: the earlier a merge, the higher."""
    order: dict[str, int] = {}
    for number, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        order.setdefault(left + right, number)
    return [-float(order.get(token, len(order))) for token in tokens]
