"""What a template writes around an answer: what it begins with, and a token, words or the end of the text behind it."""

import pytest
from tiny_chats import CLOSINGS, tokenizer_of

from loraweave.tasks.turn import Turn, turn_of


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("template", CLOSINGS)
def test_the_end_of_a_turn(template: str, special: bool) -> None:
    tokenizer = tokenizer_of("start", template, special)
    found = turn_of(tokenizer)
    closing = CLOSINGS[template].strip()
    if closing == "</s>" or (special and closing in tokenizer.all_special_tokens):
        space = " " if template == "llama2" else ""
        assert found == Turn(space, space, tokenizer.convert_tokens_to_ids(closing), "")
    else:
        assert found == Turn("", "", None, closing)


def test_the_first_token_ends_the_turn_and_white_space_before_it_is_none_of_the_answer() -> None:
    tokenizer = tokenizer_of("start", "gemma", special=True)
    ends = "\n<end_of_turn><|eot_id|>\n</s>"
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}" + ends
    tokenizer.chat_template += "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    found = turn_of(tokenizer)
    assert found == Turn("", "\n", tokenizer.convert_tokens_to_ids("<end_of_turn>"), "")
    assert (found.answer("no\n"), found.answer("no"), found.answer("a\nb\n")) == ("no", "no", "a\nb")


def test_words_that_end_a_turn_are_cut_off_with_all_that_follows() -> None:
    found = turn_of(tokenizer_of("start", "words", special=True))
    assert found == Turn("", "", None, "</turn>")
    assert found.answer("no</turn>\nuser: and?</turn>") == "no"


def test_what_a_template_writes_before_an_answer_is_none_of_it() -> None:
    tokenizer = tokenizer_of("start", "chatml", special=True)
    thoughts = "<think>\n\n</think>\n\n"
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m['content'] }}", "{{ '" + thoughts + "' if m['role'] == 'assistant' else '' }}{{ m['content'] }}"
    )
    found = turn_of(tokenizer)
    assert (found.opening, found.answer(f"{thoughts}no"), found.answer("no")) == (thoughts, "no", "no")
