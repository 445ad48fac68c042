"""The end of a turn by the template: a token, words, or the end of the text; with the space before it."""

import pytest
from tiny_chats import CLOSINGS, tokenizer_of

from loraweave.tasks.turn_end import TurnEnd, turn_end


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("template", CLOSINGS)
def test_the_end_of_a_turn(template: str, special: bool) -> None:
    tokenizer = tokenizer_of("start", template, special)
    found = turn_end(tokenizer)
    closing = CLOSINGS[template].strip()
    if closing == "</s>" or (special and closing in tokenizer.all_special_tokens):
        space = " " if template == "llama2" else ""
        assert found == TurnEnd(space, tokenizer.convert_tokens_to_ids(closing), "")
    else:
        assert found == TurnEnd("", None, closing)


def test_the_first_token_ends_the_turn_and_white_space_before_it_is_none_of_the_answer() -> None:
    tokenizer = tokenizer_of("start", "gemma", special=True)
    ends = "\n<end_of_turn><|eot_id|>\n</s>"
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}" + ends + "{% endfor %}"
    found = turn_end(tokenizer)
    assert found == TurnEnd("\n", tokenizer.convert_tokens_to_ids("<end_of_turn>"), "")
    assert (found.answer("no\n"), found.answer("no"), found.answer("a\nb\n")) == ("no", "no", "a\nb")


def test_words_that_end_a_turn_are_cut_off_with_all_that_follows() -> None:
    found = turn_end(tokenizer_of("start", "words", special=True))
    assert found == TurnEnd("", None, "</turn>")
    assert found.answer("no</turn>\nuser: and?</turn>") == "no"
