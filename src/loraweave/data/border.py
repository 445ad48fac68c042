"""Where a prompt ends and its answer begins, in tokens: one way for training, for scoring and for generating.

A tokenizer may have one token for the end of a prompt and the beginning of its answer (`(` and `):`). A model that
writes answers never sees such a token: it is given the prompt's own tokens. So where one spans the border, the text is
divided there, and nothing of the answer is lost.
"""

from typing import Any
from weakref import WeakKeyDictionary

from loraweave.bases import check_ids

ANCHORS = ("\n", "a", "0", ".", ")")
"""Texts that stand in front of another while it is encoded: no text joins its first token to all of them."""


_STARTS: WeakKeyDictionary[Any, tuple[bytes, list[int]]] = WeakKeyDictionary()


def context_ids(prompt: str, tokenizer: Any) -> list[int]:
    """The ids that a model is given to continue, with what the tokenizer puts in front of a text.

    An end token that a tokenizer puts behind a text is left out, since more is to come. A text that begins with the
    start gets no second one. An empty prompt is the start alone, or the end where the tokenizer has no start.
    """
    return _started(_plain(prompt, tokenizer), tokenizer)


def continued_ids(prompt: str, text: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids of a prompt as a model is given it, and those of the text that it should write, to the last space."""
    context = _plain(prompt, tokenizer)
    whole = _plain(prompt + text, tokenizer)
    if whole[: len(context)] == context:
        return _parted(context, whole, tokenizer)
    return _started(context, tokenizer), middle_ids(text, tokenizer)


def split_ids(prompt: str, completion: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids of a prompt and of a completion whose likelihood is measured.

    As in lm-eval, white space at the end of the prompt belongs to the completion; but where that would divide a token
    (lm-eval loses text then), the prompt stays as it is.
    """
    context = _plain(prompt.rstrip(), tokenizer)
    whole = _plain(prompt + completion, tokenizer)
    if whole[: len(context)] == context:
        return _parted(context, whole, tokenizer)
    return continued_ids(prompt, completion, tokenizer)


def opened_ids(prompt: str, opening: str, text: str, tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """The ids of a prompt, of what a chat template has between it and any answer, and of the text that answers it.

    The first two are the same whatever the text says: an evaluation gives them. The first is what a model is given that
    has to write the other two.
    """
    context, opened = continued_ids(prompt, opening, tokenizer)
    given = context + opened
    whole = _started(_plain(prompt + opening + text, tokenizer), tokenizer)
    return context, opened, whole[len(given) :] if whole[: len(given)] == given else middle_ids(text, tokenizer)


def middle_ids(text: str, tokenizer: Any) -> list[int]:
    """The ids of a text that stands in the middle of another: without the space that a tokenizer may put before it."""
    for anchor in ANCHORS:
        before = _plain(anchor, tokenizer)
        ids = _plain(anchor + text, tokenizer)
        if ids[: len(before)] == before:
            return ids[len(before) :]
    return _plain(text, tokenizer)


def _parted(context: list[int], whole: list[int], tokenizer: Any) -> tuple[list[int], list[int]]:
    started = _started(context, tokenizer)
    if not context and whole[: len(started)] == started:  # the answer begins with the start: it has it already
        return started, whole[len(started) :]
    return started, whole[len(context) :]


def _started(ids: list[int], tokenizer: Any) -> list[int]:
    start = _start(tokenizer)
    if ids and ids[: len(start)] == start:
        return ids
    if ids or start:
        return start + ids
    return [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id]


def _start(tokenizer: Any) -> list[int]:
    """What the tokenizer puts in front of a text: looked up once, as long as the same part of it puts it there."""
    if not getattr(tokenizer, "is_fast", False):
        return _found_start(tokenizer)
    processor = tokenizer.backend_tokenizer.post_processor
    by = processor.__getstate__() if processor else b""
    known = _STARTS.get(tokenizer)
    if known is None or known[0] != by:
        known = _STARTS[tokenizer] = by, _found_start(tokenizer)
    return known[1]


def _found_start(tokenizer: Any) -> list[int]:
    text, plain = next((text, ids) for text in reversed(ANCHORS) if (ids := _plain(text, tokenizer)))
    whole = list(tokenizer.encode(text))
    return whole[: next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)]


def _plain(text: str, tokenizer: Any) -> list[int]:
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    check_ids(ids, tokenizer)
    return ids
