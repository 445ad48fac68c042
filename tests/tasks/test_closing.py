"""What closes an assistant's turn is found whatever the answer says: each piece of the closing is an answer too."""

from pathlib import Path

import pytest
from tiny_chats import CLOSINGS, TEMPLATES, tokenizer_of
from tiny_tasks import learned, make_tokenizer

from loraweave.data.encode import encode
from loraweave.tasks import Example, load_tasks
from loraweave.tasks.chat import render

USER = {"role": "user", "content": "Which option?"}


def pieces(text: str) -> set[str]:
    """Every piece of a text that can be an answer: a template may take away the space around one."""
    found = {text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)}
    return {piece for piece in found if piece == piece.strip()} - {""}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_closing_is_the_templates_whatever_the_answer(template: str) -> None:
    tokenizer = tokenizer_of("start", template, special=False)
    for answer in [*pieces(CLOSINGS[template]), "yes", "assistant", "Which option?", "10 </s> or <|im_end|>\nso"]:
        for completion in (answer, [{"role": "assistant", "content": answer}]):
            text = render(Example([USER], completion), tokenizer)
            assert (text.completion.strip(), text.closing) == (answer, CLOSINGS[template])
        whole = tokenizer.apply_chat_template([USER, {"role": "assistant", "content": answer}], tokenize=False)
        assert text.prompt + text.completion + text.closing == whole


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("kind", ["bytes", "start", "spaces", "inside", "ends"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_learned_are_the_templates_own_tokens(template: str, kind: str, special: bool) -> None:
    tokenizer = tokenizer_of(kind, template, special)
    plain = {"add_special_tokens": False}
    end = [tokenizer.eos_token_id]
    for answer in [*pieces(CLOSINGS[template]), "yes"]:
        if answer in tokenizer.get_added_vocab():
            continue
        messages = [USER, {"role": "assistant", "content": answer}]
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        own = tokenizer.encode(whole, **plain)
        row = encode(Example([USER], messages[1:]), tokenizer, 256)
        start = row["input_ids"][: row["input_ids"].index(own[0])]
        assert start in ([], [tokenizer.bos_token_id])
        text = render(Example([USER], messages[1:]), tokenizer)
        if tokenizer.encode(text.prompt, **plain) == own[: len(tokenizer.encode(text.prompt, **plain))]:
            assert row["input_ids"] == start + own + (end if own[-1:] != end else [])
        said = tokenizer.decode(row["input_ids"][len(start) :], clean_up_tokenization_spaces=False)
        canonical = tokenizer.decode(own, clean_up_tokenization_spaces=False)
        assert said.replace(" ", "") == (canonical.removesuffix("</s>") + "</s>").replace(" ", "")
        scored = encode(Example([USER], answer, by_likelihood=True), tokenizer, 256)
        words = tokenizer.decode(learned(scored), clean_up_tokenization_spaces=False)
        expected = answer + CLOSINGS[template].removesuffix("</s>") + "</s>"  # some put a space where a part begins
        assert words.replace(" ", "").strip() == expected.replace(" ", "")


def test_an_answer_that_a_gen_prefix_opens_is_closed_too() -> None:
    tokenizer = tokenizer_of("bytes", "chatml", special=True)
    opened = [USER, {"role": "assistant", "content": "Option"}]
    assert render(Example(opened, " d", open_turn=True), tokenizer).closing == "<|im_end|>\n"


def test_the_cases_of_short_answers(shared: Path) -> None:
    (task,) = load_tasks(["short_answers.jsonl"], shared / "cases")
    for name, closing in (("chatml", "<|im_end|>\n"), ("eot", "<|eot_id|>")):
        tokenizer = make_tokenizer("bytes")
        tokenizer.chat_template = (shared / "cases" / "templates" / f"{name}.jinja").read_text()
        for example in task.training_examples():
            answer = example.completion[0]["content"]
            row = encode(example, tokenizer, 256)
            assert tokenizer.decode(learned(row)) == f"{answer}{closing}</s>"
            whole = tokenizer.apply_chat_template([*example.prompt, *example.completion], tokenize=False)
            assert tokenizer.decode(row["input_ids"][:-1]) == whole
