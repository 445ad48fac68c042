"""What a task's examples are, or a tokenizer is, as one short text: equal where they are equal, and else another."""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loraweave.files import hashes_of
from loraweave.tasks.examples import Example


def content_hash(examples: Iterable[Example]) -> str:
    """A hash of examples and their order: of every field of each, and so of all that training can see of them.

    It is the same in every process and on every machine, and knows nothing of tokenizers and lengths, nor of where an
    example comes from. The order counts, for the draws of a run follow it; so does the order of a message's keys, for a
    chat template may write them out.

    Args:
        examples: of one task, in the order in which they are trained on.

    Returns:
        64 hexadecimal digits, SHA-256.
    """
    digest = hashlib.sha256()
    for example in examples:
        names = (field.name for field in dataclasses.fields(example))
        values = [getattr(example, name) for name in names if name not in ("place", "ends")]
        values += [] if example.ends else ["goes on"]
        # A line each: JSON has no line break, so no two lists of examples come out alike. Parquet has dates and bytes.
        digest.update(json.dumps(values, default=_named).encode("ascii") + b"\n")
    return digest.hexdigest()


def tokenizer_hash(tokenizer: Any) -> str | None:
    """A hash of what a tokenizer makes of texts and, by its chat template, of messages.

    It is the same wherever the tokenizer was loaded from and however it has been used since; other versions of
    transformers do not change it, as far as a tokenizer is one of the `tokenizers` library.

    Returns:
        64 hexadecimal digits, SHA-256; None where the tokenizer has code of its own, or its files do not tell.
    """
    kind = type(tokenizer)
    if kind.__module__.split(".")[0] != "transformers":
        return None
    said: list[Any] = [getattr(tokenizer, "chat_template", None), getattr(tokenizer, "split_special_tokens", None)]
    said += [getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "pad", "unk")]
    digest = hashlib.sha256(json.dumps(said, default=_named).encode("ascii"))
    try:
        if getattr(tokenizer, "is_fast", False):
            state = json.loads(tokenizer.backend_tokenizer.to_str())
            content = {
                key: value for key, value in state.items() if key not in ("truncation", "padding")
            }  # as used last
            digest.update(json.dumps(content, sort_keys=True).encode("ascii"))
            return digest.hexdigest()
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            digest.update(json.dumps(hashes_of(Path(folder))).encode("ascii"))
    except Exception:  # there are as many ways to fail as there are kinds of tokenizers
        return None
    return digest.hexdigest()


def _named(value: object) -> list[str]:
    return [type(value).__name__, repr(value)]
