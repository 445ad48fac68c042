"""The official client against the real server: what it asks, and what it gets."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from tiny_server import TASKS, Process, serving
from transformers import AutoTokenizer

from loraweave import load
from loraweave.serving import refusals
from loraweave.serving.keys import Keys
from loraweave.serving.limits import Limits

NAMES = [f"mixed:{task}" for task in TASKS]
PROMPTS = ["3 is", "Double ax:", "Note 4:", "x" * 50, "été"]


@pytest.fixture(scope="module")
def client(server: Process) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def alone(run):
    """The same adapter, asked as a model of Transformers: what it says to one prompt at a time."""
    loaded = load(run)

    def answer(name: str, prompt: str, longest: int = 16) -> list[int]:
        import torch

        ids = torch.tensor([loaded.tokenizer.encode(prompt)])
        how = {"max_new_tokens": longest, "do_sample": False, "attention_mask": torch.ones_like(ids)}
        task = name.partition(":")[2]
        if task:
            out = loaded.model.generate(input_ids=ids, tasks=task, **how)
        else:
            with loaded.model.disable_adapter():
                out = loaded.model.generate(input_ids=ids, **how)
        return out[0, ids.shape[1] :].tolist()

    def text(name: str, prompt: str, longest: int = 16) -> str:
        return loaded.tokenizer.decode(answer(name, prompt, longest), skip_special_tokens=True)

    text.loaded = loaded
    return text


def test_models_are_listed_and_found_by_name(client):
    listed = list(client.models.list())
    assert [model.id for model in listed] == [*NAMES, "base"]
    assert [client.models.retrieve(model.id) for model in listed] == listed
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("mixed:parety")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("name", [*NAMES, "base"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_greedy_completion_is_what_the_adapter_says_alone(client, alone, name, prompt):
    made = client.completions.create(model=name, prompt=prompt, max_tokens=16)
    assert made.choices[0].text == alone(name, prompt)
    assert made.model == name
    assert made.object == "text_completion"
    assert made.usage.prompt_tokens == len(alone.loaded.tokenizer.encode(prompt))
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    assert made.choices[0].finish_reason == ("length" if made.usage.completion_tokens == 16 else "stop")


def test_the_names_have_answers_of_their_own(alone):
    assert len({alone(name, PROMPTS[0]) for name in [*NAMES, "base"]}) == 4


@pytest.mark.parametrize("name", [NAMES[0], "base"])
def test_a_chat_is_answered_as_load_answers_it(client, alone, name):
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "what is"}, {"type": "text", "text": "three"}]},
    ]
    made = client.chat.completions.create(model=name, messages=messages, max_completion_tokens=12)
    flat = [messages[0], {"role": "user", "content": "what is\nthree"}]
    pieces = alone.loaded.stream(TASKS[0], flat, max_new_tokens=12, adapter=name != "base")
    assert made.choices[0].message.content == "".join(pieces)
    assert made.choices[0].message.role == "assistant"
    assert made.object == "chat.completion"


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_a_stream_says_the_same_and_ends(client, kind):
    messages = [{"role": "user", "content": "hello"}]

    def ask(**how):
        if kind == "chat":
            return client.chat.completions.create(model=NAMES[1], messages=messages, max_tokens=10, **how)
        return client.completions.create(model=NAMES[1], prompt="hello", max_tokens=10, **how)

    whole = ask().choices[0].message.content if kind == "chat" else ask().choices[0].text
    events = list(ask(stream=True, stream_options={"include_usage": True}))
    said = [event.choices[0] for event in events if event.choices]
    text = "".join((c.delta.content or "") if kind == "chat" else c.text for c in said)
    assert text == whole
    assert [c.finish_reason for c in said[:-1]] == [None] * (len(said) - 1)
    assert said[-1].finish_reason in ("length", "stop")
    assert events[-1].usage.completion_tokens == ask().usage.completion_tokens
    assert [event.usage for event in events[:-1]] == [None] * (len(events) - 1)
    assert all("usage" in event.model_fields_set for event in events), "as OpenAI says: null until the last"
    assert len({event.id for event in events}) == 1
    assert not any("usage" in event.model_fields_set for event in ask(stream=True)), "only where it is asked for"


def test_an_answer_ends_before_a_stop(client, alone):
    whole = alone(NAMES[2], PROMPTS[1])
    stop = whole[5:7]
    made = client.completions.create(model=NAMES[2], prompt=PROMPTS[1], max_tokens=16, stop=["never there", stop])
    assert made.choices[0].text == whole[: whole.index(stop)]
    assert made.choices[0].finish_reason == "stop"
    streamed = client.completions.create(model=NAMES[2], prompt=PROMPTS[1], max_tokens=16, stop=stop, stream=True)
    assert "".join(event.choices[0].text for event in streamed) == whole[: whole.index(stop)]


def test_a_seed_gives_the_same_sample_and_another_seed_another(client):
    def sample(**how):
        asked = {"model": NAMES[0], "prompt": "2 is", "max_tokens": 16, "temperature": 1.5, **how}
        return client.completions.create(**asked).choices[0].text

    assert sample(seed=7) == sample(seed=7)
    assert len({sample(seed=seed) for seed in range(5)}) > 1
    assert len({sample() for _ in range(5)}) > 1, "without a seed each answer is another"
    assert sample(seed=7, top_p=1e-6) == sample(temperature=0), "the likeliest token alone"


def test_tokens_are_a_prompt_too(client, alone):
    ids = alone.loaded.tokenizer.encode(PROMPTS[0])
    for prompt in (ids, [ids], [PROMPTS[0]]):
        made = client.completions.create(model=NAMES[0], prompt=prompt, max_tokens=8)
        assert made.choices[0].text == alone(NAMES[0], PROMPTS[0], 8)


@pytest.mark.parametrize(
    ("asked", "kind", "param"),
    [
        ({"model": "mixed"}, openai.NotFoundError, "model"),
        ({"model": "mixed:parety"}, openai.NotFoundError, "model"),
        ({"n": 2}, openai.BadRequestError, "n"),
        ({"logprobs": 1}, openai.BadRequestError, "logprobs"),
        ({"temperature": 2.5}, openai.BadRequestError, "temperature"),
        ({"top_p": 0}, openai.BadRequestError, "top_p"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"max_tokens": 10**6}, openai.BadRequestError, "max_tokens"),
        ({"prompt": "a" * 300}, openai.BadRequestError, "prompt"),
        ({"prompt": ["a", "b"]}, openai.BadRequestError, "prompt"),
        ({"prompt": [5, 10**6]}, openai.BadRequestError, "prompt"),
        ({"prompt": []}, openai.BadRequestError, "prompt"),
        ({"stop": ["x"] * 40}, openai.BadRequestError, "stop"),
        ({"stream_options": {"include_usage": True}}, openai.BadRequestError, "stream_options"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "temprature"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client, asked, kind, param):
    with pytest.raises(kind) as caught:
        client.completions.create(**{"model": NAMES[0], "prompt": "3 is", **asked})
    assert caught.value.param == param
    assert "\n" not in caught.value.message


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("param", "asked"),
    [
        ("messages", {"messages": []}),
        ("messages", {"messages": [{"role": "wizard", "content": "x"}]}),
        ("messages", {"messages": [{"role": "user"}]}),
        ("messages", {"messages": [{"role": "user", "content": []}]}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
        ("messages", {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [CALL]}]}),
        ("messages", {"messages": [{"role": "user", "content": "x" * 300}]}),
        ("max_completion_tokens", {"max_completion_tokens": 10**6}),
        ("max_tokens", {"max_tokens": 10**6}),
        ("stop", {"stop": ["x</s>"]}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("n", {"n": 3}),
    ],
)
def test_what_a_chat_cannot_hold_is_refused_by_name(client, param, asked):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": NAMES[0], "messages": [{"role": "user", "content": "x"}], **asked})
    assert caught.value.param == param
    assert "\n" not in caught.value.message


def test_a_chat_may_be_a_system_message_alone_and_an_answer_may_be_sent_back(client):
    system = [{"role": "system", "content": "be brief"}]
    made = client.chat.completions.create(model=NAMES[0], messages=system, max_tokens=4)
    assert made.usage.completion_tokens <= 4
    again = [*system, made.choices[0].message, {"role": "user", "content": "more", "name": "me"}]
    assert client.chat.completions.create(model=NAMES[0], messages=again, max_tokens=4).object == "chat.completion"


def test_an_answer_ends_at_a_special_token_that_is_a_stop(project, tmp_path):
    """Such a token is no part of the answer's text, so looking for it there would find nothing."""
    base = tmp_path / "spoken"
    shutil.copytree(project / "chat", base)
    asked = {"model": "spoken", "prompt": "3 is", "max_tokens": 12}
    with serving(base) as server:
        whole = client_of(server).completions.create(**asked).choices[0].text
    letter = next(letter for letter in whole[2:] if letter.isascii() and letter.isalnum() and letter not in "3is")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": [letter]})
    tokenizer.save_pretrained(base)
    with serving(base) as server:
        client = client_of(server)
        assert client.completions.create(**asked).choices[0].text == whole.replace(letter, "")
        made = client.completions.create(**asked, stop=["never there", letter])
        assert (made.choices[0].text, made.choices[0].finish_reason) == (whole.partition(letter)[0], "stop")
        assert made.usage.completion_tokens == whole.index(letter) + 1


def test_fields_that_ask_for_nothing_are_taken(client):
    made = client.completions.create(
        model=NAMES[0],
        prompt="3",
        max_tokens=2,
        n=1,
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        user="u",
    )
    assert made.usage.completion_tokens <= 2


def test_an_unknown_task_is_told_with_those_that_there_are(client):
    with pytest.raises(openai.NotFoundError, match=r"did you mean 'mixed:parity'\? \(there are mixed:pari"):
        client.completions.create(model="mixed:parety", prompt="3 is")


def ask_for(model: str = NAMES[0], **more):
    return {"model": model, "prompt": "3 is", "max_tokens": 60, **more}


def client_of(server, retries: int = 0, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key=key, max_retries=retries, timeout=60)


def test_a_full_server_is_a_rate_limit_after_which_the_client_comes_again(run, monkeypatch):
    monkeypatch.setattr(refusals, "AGAIN", "0.2")
    with serving(run, Limits(batch=1, queue=0, seconds=60)) as server, ThreadPoolExecutor(4) as pool:

        def all_of(client):
            return list(pool.map(lambda _: client.completions.create(**ask_for()).choices[0].text, range(4)))

        with pytest.raises(openai.RateLimitError) as caught:
            all_of(client_of(server))
        assert caught.value.code == "rate_limit_exceeded"
        assert len(set(all_of(client_of(server, retries=50)))) == 1


def test_an_answer_that_breaks_off_is_an_error_of_the_client_and_no_end(run):
    with serving(run, Limits(batch=1, seconds=60)) as server:
        events = client_of(server).completions.create(**ask_for(stream=True, max_tokens=240))
        next(iter(events))

        def fails():
            raise RuntimeError("no more")

        server.engine._batches.batch_processor.prepare_next_batch = fails
        with pytest.raises(openai.APIError, match="come again"):
            list(events)
        with pytest.raises(openai.InternalServerError, match="must be started again"):
            client_of(server).completions.create(**ask_for())


def test_what_is_wrong_with_a_request_is_an_error_of_its_own(run):
    with serving(run, Limits(batch=1, body=2000), keys=Keys(["a-key-of-some-length"])) as server:
        with pytest.raises(openai.AuthenticationError) as caught:
            client_of(server).models.list()
        assert caught.value.code == "invalid_api_key"
        client = client_of(server, key="a-key-of-some-length")
        with pytest.raises(openai.APIStatusError) as huge:
            client.completions.create(**ask_for(prompt="x" * 3000))
        assert (huge.value.status_code, huge.value.code) == (413, "request_too_large")
        assert client.completions.create(**ask_for(max_tokens=2)).usage.completion_tokens <= 2
