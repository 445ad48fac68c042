"""Messages become text by the tokenizer's own template; what a template cannot do is said plainly."""

import copy
from typing import Any

import pytest

from loraweave.data.encode import IGNORED, encode
from loraweave.errors import UserError
from loraweave.tasks import Example
from loraweave.tasks.chat import render

USER = {"role": "user", "content": "What is the capital of France?"}
ANSWER = {"role": "assistant", "content": "Paris"}


def test_an_answer_in_messages_is_what_the_template_renders(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chat"]
    text = render(Example([USER], [ANSWER]), tokenizer)
    assert text.prompt.endswith("<|im_start|>assistant\n")
    assert (text.completion, text.closing) == ("Paris", "<|im_end|>\n")
    assert text.prompt + text.completion + text.closing == tokenizer.apply_chat_template([USER, ANSWER], tokenize=False)


def test_the_end_of_the_turn_is_learned_once(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["chat"]
    row = encode(Example([USER], [ANSWER]), tokenizer, 256)
    assert tokenizer.decode([label for label in row["labels"] if label != IGNORED]) == "Paris<|im_end|>"
    assert row["input_ids"].count(tokenizer.eos_token_id) == 2  # one ends the user's turn


def test_a_template_whose_turn_ends_otherwise_is_followed_by_the_end_of_sequence(tokenizers: dict[str, Any]) -> None:
    tokenizer = copy.deepcopy(tokenizers["start"])
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }} [end]\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    row = encode(Example([USER], [ANSWER]), tokenizer, 256)
    assert tokenizer.decode([label for label in row["labels"] if label != IGNORED]) == "Paris [end]\n</s>"


def test_a_template_that_refuses_messages_is_said(tokenizers: dict[str, Any]) -> None:
    tokenizer = copy.deepcopy(tokenizers["chat"])
    tokenizer.chat_template = "{{ raise_exception('only tools here') }}"
    with pytest.raises(UserError, match="refuses the messages: only tools here"):
        render(Example([USER], "Paris"), tokenizer)


def test_a_tokenizer_without_a_template_is_refused(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="has no chat template; use a chat model's tokenizer, or plain prompts"):
        render(Example([USER], [ANSWER]), tokenizers["bytes"])


def test_a_template_that_moves_or_drops_the_answer_is_refused(tokenizers: dict[str, Any]) -> None:
    tokenizer = copy.deepcopy(tokenizers["chat"])
    tokenizer.chat_template = "{{ messages | length }}: {% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(UserError, match=r"the answer 'Paris' cannot be told apart: the prompt has '1: .* where"):
        render(Example([USER], [ANSWER]), tokenizer)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(UserError, match="leaves out the answer 'Paris'"):
        render(Example([USER], [ANSWER]), tokenizer)
