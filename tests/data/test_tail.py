"""The end of a long prompt has the tokens that it has within the whole."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tasks import CHATML, make_tokenizer

from loraweave.data import encode as encoding
from loraweave.data.encode import encode_all
from loraweave.data.tail import _overlaps, last_tokens
from loraweave.tasks.examples import Example

KINDS = {kind: make_tokenizer(kind) for kind in ("bytes", "start", "spaces", "chat")}
PIECES = st.sampled_from(["<|im_start|>", "</s>", "<|im_end|>", "<s>", "<|im", "_start|>", " ", "\n", "the fox ", "é"])


@given(st.sampled_from(sorted(KINDS)), st.lists(PIECES, max_size=120), st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_the_last_tokens_stay_the_same(kind: str, pieces: list[str], tokens: int) -> None:
    prompt = "".join(pieces)
    tokenizer = KINDS[kind]
    end = last_tokens(prompt, tokenizer, tokens)
    assert prompt.endswith(end)
    if end != prompt:
        assert tokenizer.encode(prompt)[-tokens - 1 :] == tokenizer.encode(end)[-tokens - 1 :]
        for completion in (" Paris", "Paris", "</s>"):
            assert tokenizer.encode(prompt + completion)[-tokens:] == tokenizer.encode(end + completion)[-tokens:]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_much_of_a_long_chat_is_left_out(kind: str) -> None:
    prompt = "".join(f"<|im_start|>user\nthe quick brown fox {i}</s>\n" for i in range(500))
    assert len(last_tokens(prompt, KINDS[kind], 64)) < len(prompt) / 10


def test_a_prompt_without_special_tokens_stays_whole() -> None:
    prompt = "the quick brown fox " * 500
    assert last_tokens(prompt, KINDS["bytes"], 16) == prompt


def test_tokens_that_others_reach_into_are_no_borders() -> None:
    assert _overlaps("x<a>", "<a>")
    assert _overlaps("x<a", "<a>")
    assert _overlaps("<a>b", "<a>")
    assert _overlaps("aba", "aba")
    assert not _overlaps("<b>", "<a>")
    assert not _overlaps("<a>", "<a>")


def test_a_very_long_chat_is_encoded_as_ever_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer: Any = KINDS["chat"]
    assert tokenizer.chat_template == CHATML
    roles = ("user", "assistant")
    chat = [{"role": roles[i % 2], "content": f"message {i} has words of its own, " * 4} for i in range(800)]
    examples = [Example(chat[:i], [chat[i]]) for i in range(1, 800, 2)]
    started = time.process_time()
    found = encode_all(examples, tokenizer, 256)
    took = time.process_time() - started
    monkeypatch.setattr(encoding, "last_tokens", lambda prompt, *_: prompt)
    some = [0, 20, 199, 399]
    started = time.process_time()
    plain = encode_all([examples[i] for i in some], tokenizer, 256)
    messages = [sum(2 * i + 2 for i in which) for which in (range(len(examples)), some)]
    assert took < (time.process_time() - started) * messages[0] / messages[1] / 3, "each from its beginning is slower"
    assert [found.rows[i] for i in some] == plain.rows
    assert (found.cut, plain.cut) == (sum(len(row["input_ids"]) == 256 for row in found.rows), 3)
