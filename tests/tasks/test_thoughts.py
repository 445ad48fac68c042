"""Thoughts before an answer: what is learned where a template opens one in the prompt, and what an evaluation gives."""

import copy
from pathlib import Path
from typing import Any

import pytest
import trl
from tiny_chats import THINKING, thinking_tokenizer
from tiny_tasks import make_tokenizer

from loraweave.data.border import context_ids
from loraweave.data.encode import IGNORED, encode
from loraweave.errors import UserError
from loraweave.tasks import Example
from loraweave.tasks.chat import asked, render
from loraweave.tasks.thoughts import before_thought, ended, have_thoughts, opens_thought, parted
from loraweave.tasks.turn import turn_of

USER = {"role": "user", "content": "Which is the capital?"}
ANSWER = {"role": "assistant", "content": "Paris"}
THOUGHT = "Hm.\nOf France?"
WRITTEN = [
    {**ANSWER, "reasoning_content": THOUGHT},
    {**ANSWER, "content": f"<think>\n{THOUGHT}\n</think>\n\nParis"},
    {**ANSWER, "content": f"<think>{THOUGHT}</think>Paris"},
    {**ANSWER, "content": f"{THOUGHT}\n</think>\n\nParis"},
]


def learned(row: Any) -> list[int]:
    return [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]


def text_of(ids: list[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("template", THINKING)
def test_an_answer_without_a_thought_is_learned_behind_an_empty_one(template: str) -> None:
    tokenizer = thinking_tokenizer("bytes", template)
    prompt = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    for completion in ([ANSWER], "Paris"):
        for by_likelihood in {False, isinstance(completion, str)}:
            example = Example([USER], completion, by_likelihood=by_likelihood)
            row = encode(example, tokenizer, 256)
            context = row["input_ids"][: -len(learned(row))]
            assert context == context_ids(prompt, tokenizer)  # what any server gives
            empty = "<think>\n\n</think>\n\n"
            whole = text_of(row["input_ids"], tokenizer)
            assert whole == before_thought(prompt) + empty + "Paris" + whole.rpartition("Paris")[2]
            text = render(example, tokenizer)
            assert text.prompt + text.opening == before_thought(prompt) + empty
            assert asked(tokenizer, [USER]) == (text.prompt, text.opening)


@pytest.mark.parametrize("answer", WRITTEN, ids=["key", "words", "tight words", "words that go on"])
@pytest.mark.parametrize("template", THINKING)
def test_thoughts_are_learned_however_they_are_written(template: str, answer: dict[str, Any]) -> None:
    tokenizer = thinking_tokenizer("bytes", template)
    row = encode(Example([USER], [answer]), tokenizer, 256)
    whole = text_of(row["input_ids"], tokenizer)
    assert f"<think>\n{THOUGHT}\n</think>\n\nParis" in whole
    assert whole.count("</think>") == 1
    assert f"{THOUGHT}\n</think>\n\nParis" in text_of(learned(row), tokenizer)


def test_whether_any_answer_has_a_thought() -> None:
    assert all(have_thoughts([Example([USER], [ANSWER]), Example([USER], [each])]) for each in WRITTEN)
    assert not have_thoughts([Example([USER], [ANSWER]), Example("a", "b")])


def test_a_prompt_that_ends_with_an_empty_thought_takes_answers_without_any() -> None:
    tokenizer = thinking_tokenizer("bytes", "opened and kept")
    closed = "<think>\n\n</think>\n\n{% endif %}"
    tokenizer.chat_template = tokenizer.chat_template.removesuffix("<think>\n{% endif %}") + closed
    text = render(Example([USER], [ANSWER]), tokenizer)
    assert (text.prompt.endswith("</think>\n\n"), text.opening, text.completion) == (True, "", "Paris")
    for answer in WRITTEN:
        with pytest.raises(UserError, match="ends its prompts with an empty thought"):
            render(Example([USER], [answer]), tokenizer)


def test_words_that_a_template_prints_behind_an_empty_thought_have_no_second_one() -> None:
    """It knows a thought by its key alone (Qwen 3.8)."""
    tokenizer = thinking_tokenizer("bytes", "opened and kept")
    tokenizer.chat_template = tokenizer.chat_template.replace("{% if not t and '</think>' in c %}", "{% if false %}")
    for answer in WRITTEN:
        text = render(Example([USER], [answer]), tokenizer)
        assert (text.opening, text.completion) == ("", f"{THOUGHT}\n</think>\n\nParis")


def test_what_the_template_reads_of_a_thought_is_not_all_that_is_learned() -> None:
    """A template that opens a thought and knows one of the keys alone would leave the others empty."""
    tokenizer = thinking_tokenizer("bytes", "opened and kept")
    for key in ("thinking", "reasoning"):
        text = render(Example([USER], [{**ANSWER, key: THOUGHT}]), tokenizer)
        assert text.completion == f"{THOUGHT}\n</think>\n\nParis"
        assert text.opening == ""


def test_a_thought_that_would_be_lost_is_refused() -> None:
    tokenizer = make_tokenizer("bytes")
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert render(Example([USER], [ANSWER]), tokenizer).completion == "Paris"
    for answer in WRITTEN:
        with pytest.raises(UserError, match="does not print 'reasoning_content'"):
            render(Example([USER], [answer]), tokenizer)


@pytest.mark.parametrize("template", THINKING)
def test_the_beginning_of_an_answer_stands_behind_the_thought(template: str) -> None:
    tokenizer = thinking_tokenizer("bytes", template)
    begun = [USER, {"role": "assistant", "content": "It is"}]
    prompt, opening = asked(tokenizer, begun, add_generation_prompt=False)
    assert (prompt.endswith("<think>\n\n</think>\n\nIt is"), opening) == (True, "")
    assert render(Example(begun, " Paris", open_turn=True), tokenizer).prompt == prompt


@pytest.mark.parametrize("template", THINKING)
def test_what_is_written_is_the_answer_alone(template: str) -> None:
    tokenizer = thinking_tokenizer("bytes", template)
    row = encode(Example([USER], [ANSWER]), tokenizer, 256)
    turn = turn_of(tokenizer)
    ids = learned(row)[: learned(row).index(turn.token)]
    assert turn.answer(tokenizer.decode(ids, skip_special_tokens=True)) == "Paris"


def test_marks_of_a_channel_are_no_part_of_an_answer(tokenizers: dict[str, Any]) -> None:
    (file,) = (Path(trl.__file__).parent / "chat_templates").glob("gptoss.jinja")
    tokenizer = copy.deepcopy(tokenizers["start"])
    marks = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = file.read_text(encoding="utf-8")
    row = encode(Example([USER], [ANSWER]), tokenizer, 4096)
    assert text_of(learned(row), tokenizer).startswith("<|channel|>final<|message|>Paris<|return|>")
    written = tokenizer.decode(learned(row), skip_special_tokens=True)
    assert turn_of(tokenizer).answer(written) == "Paris"


def test_parts_of_texts() -> None:
    assert before_thought("<a>\n<think>\n") == "<a>\n"
    assert not opens_thought("<think>\n\n</think>\n\n")
    assert ended("<thinking>", "so ") == "\nso \n</thinking>\n\n"
    with pytest.raises(ValueError, match="opens no thought"):
        ended("assistant\n")
    assert parted(ANSWER) == ANSWER
    assert parted(WRITTEN[2])["reasoning_content"] == THOUGHT
