"""System messages reach the model whatever the template thinks of them: in training and in evaluation alike."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loraweave.errors import UserError
from loraweave.evaluation.lm import LoadedModel
from loraweave.tasks import Example, load_tasks
from loraweave.tasks.chat import render
from loraweave.tasks.template import apply_template, folded, folding_tasks

WriteTask = Callable[..., Path]
SYSTEM = {"role": "system", "content": "You are brief."}
USER = {"role": "user", "content": "What is the capital of France?"}
ANSWER = {"role": "assistant", "content": "Paris"}
BOTH = "You are brief.\n\nWhat is the capital of France?"

REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
TURN = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
TEMPLATES = {
    "raises": REFUSES + "{% for m in messages %}" + TURN + "{% endfor %}",
    "leaves out": "{% for m in messages if m['role'] in ('user', 'assistant') %}" + TURN + "{% endfor %}",
    "knows roles": (
        "{% for m in messages %}{% if m['role'] not in ('user', 'assistant', 'system') %}{{ raise_exception('role') }}"
        "{% endif %}" + TURN + "{% endfor %}"
    ),
    "takes all": "{% for m in messages %}" + TURN + "{% endfor %}",
}
OPENED = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.fixture
def with_template(tokenizers: dict[str, Any]) -> Callable[[str], Any]:
    def build(kind: str) -> Any:
        tokenizer = copy.deepcopy(tokenizers["chat"])
        tokenizer.chat_template = TEMPLATES[kind] + OPENED
        return tokenizer

    return build


@pytest.mark.parametrize("kind", ["raises", "leaves out"])
@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_refused_system_message_is_part_of_the_first_users_turn(
    kind: str, role: str, with_template: Callable[[str], Any]
) -> None:
    tokenizer = with_template(kind)
    messages = [{**SYSTEM, "role": role}, USER]
    if (kind, role) == ("raises", "developer"):  # this one takes it
        assert "<|im_start|>developer\nYou are brief.<|im_end|>" in apply_template(tokenizer, messages, True)
        return
    prompt = apply_template(tokenizer, messages, True)
    assert prompt == f"<|im_start|>user\n{BOTH}<|im_end|>\n<|im_start|>assistant\n"
    whole = render(Example(messages, [ANSWER]), tokenizer)
    assert (whole.prompt, whole.completion) == (prompt, "Paris")
    assert folding_tasks(
        tokenizer, [("brief", [Example(messages, "Paris")]), ("bare", [Example([USER], "Paris")])]
    ) == ["brief"]


def test_a_developer_is_the_system_where_the_template_knows_that_alone(with_template: Callable[[str], Any]) -> None:
    messages = [{**SYSTEM, "role": "developer"}, USER]
    tokenizer = with_template("knows roles")
    assert apply_template(tokenizer, messages, True) == apply_template(tokenizer, [SYSTEM, USER], True)
    assert folding_tasks(tokenizer, [("brief", [Example(messages, "Paris")])]) == []


def test_a_system_message_that_the_template_takes_stays_as_it_is(with_template: Callable[[str], Any]) -> None:
    tokenizer = with_template("takes all")
    assert apply_template(tokenizer, [SYSTEM, USER], True) == tokenizer.apply_chat_template(
        [SYSTEM, USER], tokenize=False, add_generation_prompt=True
    )


def test_words_that_stand_elsewhere_too_do_not_hide_that_a_message_is_left_out(
    with_template: Callable[[str], Any],
) -> None:
    messages = [{**SYSTEM, "content": "the capital"}, USER]
    assert "the capital\n\nWhat is" in apply_template(with_template("leaves out"), messages, True)


def test_words_of_the_template_itself_do_not_hide_that_a_message_is_left_out(
    with_template: Callable[[str], Any],
) -> None:
    messages = [{**SYSTEM, "content": "assistant"}, USER]
    assert "user\nassistant\n\nWhat is" in apply_template(with_template("leaves out"), messages, True)


def test_a_template_that_minds_the_words_of_a_message_is_no_error(tokenizers: dict[str, Any]) -> None:
    tokenizer = copy.deepcopy(tokenizers["chat"])
    minds = "{% if m['role'] == 'system' and m['content'] != 'You are brief.' %}{{ raise_exception('no') }}{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}" + minds + TURN + "{% endfor %}" + OPENED
    assert "You are brief." in apply_template(tokenizer, [SYSTEM, USER], True)


@pytest.mark.parametrize("first", [{"content": "  "}, {"tools": True}])
def test_what_folds_is_told_whatever_conversation_comes_first(first: dict, tokenizers: dict[str, Any]) -> None:
    """One whose system message is blank, or whose tools the template lists beside it."""
    tokenizer = copy.deepcopy(tokenizers["chat"])
    shows = "{% for m in messages if m['role'] != 'system' or tools %}" + TURN + "{% endfor %}"
    tokenizer.chat_template = shows + "{% if tools %}{{ tools | tojson }}{% endif %}" + OPENED
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    one = Example(
        [{**SYSTEM, "content": first.get("content", "x")}, USER], "a", tools=[tool] if "tools" in first else None
    )
    plain = Example([SYSTEM, USER], "Paris")
    assert folding_tasks(tokenizer, [("one", [one])]) == []
    assert folding_tasks(tokenizer, [("both", [one, plain])]) == ["both"]


def test_each_system_message_goes_to_the_turn_after_it() -> None:
    later = {"role": "system", "content": "In German now."}
    again = {"role": "user", "content": "And of Italy?"}
    turns = folded([SYSTEM, USER, ANSWER, later, again])
    assert [turn["content"] for turn in turns] == [BOTH, "Paris", "In German now.\n\nAnd of Italy?"]
    assert folded([USER, later])[0]["content"] == "What is the capital of France?\n\nIn German now."
    assert folded([SYSTEM]) == [{"role": "user", "content": "You are brief."}]
    assert folded([{**SYSTEM, "content": ""}, USER]) == [USER]


def test_two_files_that_differ_in_their_system_message_alone_stay_apart(shared: Path, tokenizers: dict) -> None:
    tokenizer = copy.deepcopy(tokenizers["chat"])
    tokenizer.chat_template = (shared / "cases" / "templates" / "no_system.jinja").read_text()
    tasks = load_tasks(["system_a.jsonl", "system_b.jsonl"], base_dir=shared / "cases")
    prompts = [{render(example, tokenizer).prompt for example in task.training_examples()} for task in tasks]
    assert not prompts[0] & prompts[1]
    assert all("Say the word in capital letters." in prompt for prompt in prompts[0])
    assert all("Say the word backwards." in prompt for prompt in prompts[1])


def test_a_description_is_kept_in_training_and_in_evaluation(
    write_task: WriteTask, scorers: dict[str, Any], with_template: Callable[[str], Any]
) -> None:
    path = write_task()
    path.write_text(path.read_text() + 'description: "Sort the news."\n')
    (task,) = load_tasks(["topic.yaml"], path.parent, chat_template=True)
    tokenizer = with_template("raises")
    prompt = render(task.training_examples()[0], tokenizer).prompt
    assert "user\nSort the news.\n\nnumber " in prompt
    lm = LoadedModel(scorers["chat"].model, tokenizer, batch_size=1)
    assert lm.apply_chat_template(task.training_examples()[0].prompt) == prompt


LAST_TURN = (  # Mistral 7B v0.3: the system message stands in the turn that waits for its answer
    "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] %}{% set ms = messages[1:] %}"
    "{% else %}{% set ms = messages %}{% endif %}"
    "{% for m in ms %}{% if m['role'] == 'user' %}[INST] {% if loop.last and s is defined %}{{ s }}\n\n{% endif %}"
    "{{ m['content'] }}[/INST]{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)


def test_a_system_message_in_the_turn_that_waits_for_its_answer(tokenizers: dict[str, Any]) -> None:
    tokenizer = copy.deepcopy(tokenizers["start"])
    tokenizer.chat_template = LAST_TURN
    again = {"role": "user", "content": "And of Italy?"}
    one = render(Example([SYSTEM, USER], [ANSWER]), tokenizer)
    assert (one.prompt, one.completion, one.closing) == (f"[INST] {BOTH}[/INST]", " Paris", "</s>")
    two = render(Example([SYSTEM, USER, ANSWER, again], [{"role": "assistant", "content": "Rome"}]), tokenizer)
    assert two.prompt == apply_template(tokenizer, [SYSTEM, USER, ANSWER, again], True)  # what generation gets
    assert two.prompt.endswith("[INST] You are brief.\n\nAnd of Italy?[/INST]")
    assert (two.completion, two.closing) == (" Rome", "</s>")
    assert folding_tasks(tokenizer, [("both", [Example([SYSTEM, USER, ANSWER, again], "Rome")])]) == []


CALLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} ARGUMENTS</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    "printed",
    [
        "{{ c.function.arguments }}",
        "{{ c.function.arguments | tojson }}",
        "{{ '' + c.function.arguments }}",
        "{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}",
    ],
)
def test_arguments_of_calls_are_json_however_a_template_prints_them(printed: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = copy.deepcopy(tokenizers["chat"])
    tokenizer.chat_template = CALLS.replace("ARGUMENTS", printed)
    arguments = {"town": "Gent", "days": [1, 2], "rain": True}
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    text = render(Example([USER], [call]), tokenizer)
    assert text.completion == '<call>f {"town": "Gent", "days": [1, 2], "rain": true}</call>'
    assert text.completion in apply_template(tokenizer, [USER, call, USER], True)


def test_a_template_that_prints_arguments_by_no_means_is_refused(tokenizers: dict[str, Any]) -> None:
    tokenizer = copy.deepcopy(tokenizers["chat"])
    tokenizer.chat_template = CALLS.replace("ARGUMENTS", "{{ raise_exception('one call, please') }}")
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
    with pytest.raises(UserError, match="refuses the messages: one call, please"):
        render(Example([USER], [call]), tokenizer)
