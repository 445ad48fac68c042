"""The hash of a task's examples: the same wherever it is taken, another for any other content."""

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tasks import make_tokenizer
from transformers import AutoTokenizer

from loraweave.data.identity import content_hash, tokenizer_hash
from loraweave.tasks.examples import Example

TEXTS = st.text(st.characters(codec=None), max_size=5)
MESSAGES = st.lists(st.fixed_dictionaries({"role": TEXTS, "content": TEXTS}), max_size=3)
EXAMPLES = st.lists(st.builds(Example, TEXTS | MESSAGES, TEXTS | MESSAGES, st.booleans()), max_size=4)


@given(EXAMPLES, EXAMPLES)
def test_hashes_are_equal_where_examples_are(some: list[Example], others: list[Example]) -> None:
    assert (content_hash(some) == content_hash(others)) == (some == others)
    assert content_hash(iter(some)) == content_hash(list(some))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([Example("ab", "c")], [Example("a", "bc")]),
        ([Example("a", "b"), Example("c", "d")], [Example("c", "d"), Example("a", "b")]),
        ([Example("a", "b")], [Example("a", "b")] * 2),
        ([Example([{"content": "a"}], "b")], [Example([{"content": "a"}], "b", open_turn=True)]),
        ([Example("a ", "b")], [Example("a ", "b", by_likelihood=True)]),  # other tokens carry loss
        ([Example([{"content": "a", "n": 1}], "b")], [Example([{"content": "a", "n": 1.0}], "b")]),
        ([Example([{"role": "a", "content": "a"}], "b")], [Example([{"content": "a", "role": "a"}], "b")]),
        ([Example([{"on": date(2024, 1, 2)}], "b")], [Example([{"on": date(2024, 1, 3)}], "b")]),
        ([Example([{"role": "user"}], "b")], [Example([{"role": "user"}], "b", tools=[{"type": "function"}])]),
        ([Example("", "b")], [Example("", "b", ends=False)]),
        ([Example([{"of": b"1"}], "b")], [Example([{"of": "b'1'"}], "b")]),
    ],
)
def test_what_looks_alike_is_told_apart(one: list[Example], other: list[Example]) -> None:
    assert content_hash(one) != content_hash(other)


def test_where_an_example_comes_from_does_not_count() -> None:
    assert content_hash([Example("a", "b", place="x.jsonl, line 1")]) == content_hash([Example("a", "b")])


def test_the_hash_is_the_same_in_another_process() -> None:
    examples = [Example("a\ud800ü", "b"), Example([{"role": "user", "content": "x"}], "y")]
    code = f"""
from loraweave.data.identity import content_hash, tokenizer_hash
from loraweave.tasks.examples import Example
print(content_hash({examples!r}))"""
    seeds = {
        subprocess.check_output([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, text=True)
        for seed in "12"
    }
    assert seeds == {content_hash(examples) + "\n"}


def test_a_tokenizer_is_the_same_wherever_it_is_from_and_however_it_was_used(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("chat")
    before = tokenizer_hash(tokenizer)
    tokenizer(["a", "b c d e"], padding=True, truncation=True, max_length=3)
    assert tokenizer_hash(tokenizer) == before is not None
    tokenizer.save_pretrained(tmp_path / "here")
    assert tokenizer_hash(AutoTokenizer.from_pretrained(tmp_path / "here")) == before
    tokenizer.chat_template = f"{tokenizer.chat_template} "
    assert tokenizer_hash(tokenizer) != before
