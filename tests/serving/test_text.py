"""Text that grows token by token is the text of all tokens, up to what ends it, however they come."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_shapes import pieces_of
from tiny_tasks import make_tokenizer

from loraweave.serving.text import HALF, Words
from loraweave.tasks.turn import Turn

TOKENIZERS = {kind: make_tokenizer(kind) for kind in ("bytes", "start", "spaces", "inside")}
TEXTS = [
    "",
    " ",
    "é",
    "e",
    "</turn>",
    "</",
    "the end",
    " the capital",
    "Paris",
    "\n",
    "\n\n",
    "🙂",
    "a🙂",
    "</turn",
    "<think>",
]
TURNS = [
    None,
    Turn("", "", None, ""),
    Turn("", " ", 2, ""),
    Turn("<think>", "\n\n", None, "</turn>"),
    Turn(" ", "\n", None, "</"),
]


def streamed(tokenizer, tokens, cuts=(), **how):
    """The pieces of a text whose tokens come in parts, and whether it stopped."""
    words, pieces, start = Words(tokenizer, **how), [], 0
    for end in [*sorted({cut for cut in cuts if cut < len(tokens)}), len(tokens)]:
        pieces.append(words.take(tokens[start:end]))
        start = end
        if words.stopped:
            break
    return [*pieces, words.rest()], words.stopped


def expected(text, stops, turn):
    """What the answer in a whole text is."""
    opening, space, end = (turn.opening, turn.space, turn.words) if turn else ("", "", "")
    text = text.removeprefix(opening)
    for length in range(len(text) + 1):  # letter by letter
        found = [stop for stop in (*stops, end) if stop and text[:length].endswith(stop)]
        if found:
            said = text[: length - len(max(found, key=len))]
            return said.removesuffix(space) if max(found, key=len) == end else said, True
    return text.removesuffix(space), False


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from(sorted(TOKENIZERS)),
    parts=st.lists(st.sampled_from(TEXTS), max_size=12),
    cuts=st.sets(st.integers(1, 60)),
    stops=st.lists(st.sampled_from(TEXTS), max_size=3),
    turn=st.sampled_from(TURNS),
)
def test_pieces_are_the_whole_text_up_to_its_end(kind, parts, cuts, stops, turn):
    tokenizer = TOKENIZERS[kind]
    tokens = tokenizer.encode("".join(parts), add_special_tokens=False)
    whole = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    pieces, stopped = streamed(tokenizer, tokens, cuts, stops=stops, turn=turn)
    assert ("".join(pieces), stopped) == expected(whole, stops, turn)


@settings(max_examples=300, deadline=None)
@given(tokens=st.lists(st.integers(0, 300), max_size=40), cuts=st.sets(st.integers(1, 40)))
def test_whatever_a_model_writes_comes_out_whole(tokens, cuts):
    tokenizer = TOKENIZERS["bytes"]
    whole = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    pieces, _ = streamed(tokenizer, tokens, cuts)
    assert "".join(pieces) == whole


def test_a_letter_comes_whole_or_not_at_all():
    tokenizer = TOKENIZERS["bytes"]
    tokens = tokenizer.encode("a🙂b", add_special_tokens=False)
    assert len(tokens) > 3
    pieces, _ = streamed(tokenizer, tokens, range(1, len(tokens)))
    assert [piece for piece in pieces if piece] == ["a", "🙂", "b"]
    assert "".join(streamed(tokenizer, tokens[:-2])[0]).endswith(HALF), "what never becomes a letter is shown as such"


@pytest.mark.parametrize("kind", ["spaces", "bytes"])
def test_what_goes_on_from_a_text_has_its_space(kind):
    tokenizer = TOKENIZERS[kind]
    prompt = tokenizer.encode("What is the capital", add_special_tokens=False)
    tokens = tokenizer.encode("What is the capital of France", add_special_tokens=False)[len(prompt) :]
    assert "".join(streamed(tokenizer, tokens, before=prompt[-8:])[0]) == " of France"


def test_what_goes_on_from_letters_in_bytes_is_whole():
    tokenizer = pieces_of("mistral")  # what has no token of its own is bytes
    for text, more in (("a 日本語", "の文 is"), ("日本語", " is"), ("🙂é🙂", "🙂"), ("la mañana", "ñ")):
        prompt, whole = (tokenizer.encode(some, add_special_tokens=False) for some in (text, text + more))
        tokens = whole[len(prompt) :]
        for before in range(4, len(prompt) + 1):
            pieces, _ = streamed(tokenizer, tokens, range(1, len(tokens)), before=prompt[-before:])
            assert "".join(pieces) == more


def test_what_may_be_the_beginning_of_a_stop_is_held_back():
    words = Words(TOKENIZERS["bytes"], stops=["the end"])
    encode = TOKENIZERS["bytes"].encode
    assert words.take(encode("so th")) == "so "
    assert words.take(encode("e e")) == ""
    assert words.take(encode("gg")) == "the egg"
    assert words.take(encode(" the end of it")) == " "
    assert words.stopped
    assert words.rest() == ""
