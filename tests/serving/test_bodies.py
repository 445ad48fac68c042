"""Every field that OpenAI's client can send is followed, refused by name, or says nothing about the answer."""

import inspect

import openai
import pytest

from loraweave.serving.bodies import _IGNORED, _NOTHING, ChatBody, TextBody, read_body
from loraweave.serving.refusals import RefusalError

CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
TEXT = {"model": "m", "prompt": "x"}


@pytest.mark.parametrize(
    ("kind", "create"),
    [
        (ChatBody, openai.resources.chat.completions.Completions.create),
        (TextBody, openai.resources.completions.Completions.create),
    ],
)
def test_every_field_of_the_official_client_is_known(kind, create):
    of_the_client = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    fields = set(inspect.signature(create).parameters) - of_the_client
    assert {"model", "seed", "stop"} < fields
    assert fields <= {*kind.model_fields, *_IGNORED, *_NOTHING}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 0}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"frequency_penalty": -0.1}, "frequency_penalty"),
        ({"logit_bias": {"5": -100}}, "logit_bias"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"verbosity": "low"}, "verbosity"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"max_tokens": 5.5}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usge": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options"),
        ({"top_k": 5}, "top_k"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"prompt": "x"}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": None}, "messages"),
        ({"model": ""}, "model"),
    ],
)
def test_what_is_not_followed_is_refused_by_its_name(more, param):
    with pytest.raises(RefusalError) as caught:
        read_body(ChatBody, {**CHAT, **more})
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("more", [{"best_of": 2}, {"echo": True}, {"suffix": "y"}, {"logprobs": 0}, {"prompt": None}])
def test_a_completion_refuses_its_own(more):
    with pytest.raises(RefusalError) as caught:
        read_body(TextBody, {**TEXT, **more})
    assert caught.value.param == next(iter(more))


def test_an_unknown_option_of_a_stream_is_told_with_the_one_that_was_meant():
    with pytest.raises(RefusalError, match="'include_usge' is unknown in stream_options, did you mean 'include_usage'"):
        read_body(ChatBody, {**CHAT, "stream": True, "stream_options": {"include_usge": True}})


def test_what_says_nothing_about_the_answer_is_taken():
    nothing = {
        "n": 1,
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"mode": "explicit"},
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "logprobs": False,
        "logit_bias": {},
        "stop": [],
        "max_tokens": 5,
        "max_completion_tokens": 5,
        "temperature": 0,
        "seed": None,
        "stream": True,
        "stream_options": {"include_usage": False, "include_obfuscation": True},
    }
    read = read_body(ChatBody, {**CHAT, **nothing})
    assert (read.longest, read.temperature, read.stops) == (("max_completion_tokens", 5), 0, [])
    assert read_body(ChatBody, CHAT).longest == ("max_tokens", None)
