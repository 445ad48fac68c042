"""From a body to tokens and back, without HTTP: what is refused, and that places are given back whatever happens."""

import asyncio
import json
import time
from contextlib import suppress

import pytest

from loraweave import load
from loraweave.serving import handlers
from loraweave.serving.catalog import RunCatalog
from loraweave.serving.engine import Engine
from loraweave.serving.handlers import ChatHandler, TextHandler
from loraweave.serving.limits import Limits
from loraweave.serving.records import RECORD, Record
from loraweave.serving.refusals import RefusalError
from loraweave.serving.voices import Speakers

BODY = {"model": "mixed:parity", "prompt": "3 is", "max_tokens": 200}
SCOPE = {"type": "http", "asgi": {"spec_version": "2.3"}}


@pytest.fixture(scope="module")
def loaded(run):
    return load(run)


def with_handler(loaded, work):
    async def go():
        RECORD.set(Record("1", "POST", "/v1/completions"))
        speakers = Speakers(loaded.model)
        engine = Engine(speakers, Limits(batch=2, context=250))
        engine.start()
        try:
            handler = TextHandler(engine, RunCatalog(loaded, speakers, "mixed"), loaded.tokenizer)
            await asyncio.wait_for(work(handler, engine), 60)
        finally:
            await engine.stop()

    asyncio.run(go())


async def never(*_):
    await asyncio.Event().wait()


def test_a_stream_that_is_given_up_before_it_begins_gives_its_place_back(loaded):
    async def work(handler, engine):
        response = await handler.handle_request({**BODY, "stream": True}, "1")
        assert engine.running == 1
        answering = asyncio.create_task(response(SCOPE, never, never))
        await asyncio.sleep(0.05)
        answering.cancel()
        with suppress(asyncio.CancelledError):
            await answering
        assert (engine.running, engine.taken) == (0, 0.0), "though the response is still there"

    with_handler(loaded, work)


def test_a_prompt_that_the_base_cannot_read_is_refused_before_it_harms_a_batch(loaded, monkeypatch):
    async def work(handler, engine):
        for ids, says in (([None], "the prompt is empty"), ([5, 10**6], "1000000 is no token"), ([-1], "-1 is no")):
            monkeypatch.setattr(handlers, "context_ids", lambda *_, ids=ids: ids)
            with pytest.raises(RefusalError, match=says) as caught:
                await handler.handle_request(BODY, "1")
            assert (caught.value.status, caught.value.param) == (400, "prompt")
        assert engine.alive

    with_handler(loaded, work)


def test_the_tokenizer_works_for_one_request_at_a_time_whatever_its_kind(loaded, monkeypatch):
    at_work, most = [], []

    def slowly(*_):
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.05)
        at_work.pop()
        return [5, 6]

    async def work(handler, engine):
        chat = ChatHandler(engine, handler._catalog, loaded.tokenizer)
        said = {"model": "mixed:parity", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        bodies = [(handler, {**BODY, "max_tokens": 1}), (chat, said)] * 2
        await asyncio.gather(*(one.handle_request(body, "1") for one, body in bodies))
        assert most == [1] * 4

    monkeypatch.setattr(handlers, "context_ids", slowly)
    with_handler(loaded, work)


def test_a_long_list_of_tokens_is_refused_before_it_is_read(loaded, monkeypatch):
    def decoded(*_):
        raise AssertionError("it is not to be looked at")

    async def work(handler, engine):
        monkeypatch.setattr(handler._tokenizer, "decode", decoded)
        with pytest.raises(RefusalError) as caught:
            await handler.handle_request({**BODY, "prompt": [5] * 400_000}, "1")
        assert caught.value.code == "context_length_exceeded"

    with_handler(loaded, work)


def test_what_the_bases_own_generation_configuration_says_of_answers_holds_as_in_an_evaluation(loaded, monkeypatch):
    """Qwen 2.5's chat models penalise what was said before."""
    asked = [("parity", "3 is"), ("double", "Double ax:"), ("notes", "aaaa aaaa")]

    def alone():
        return [loaded.generate(task, prompt, max_new_tokens=16) for task, prompt in asked]

    async def work(handler, engine):
        bodies = [{"model": f"mixed:{task}", "prompt": prompt, "max_tokens": 16} for task, prompt in asked]
        answers = await asyncio.gather(*(handler.handle_request(body, "1") for body in bodies))
        assert [json.loads(answer.body)["choices"][0]["text"] for answer in answers] == alone()
        sampled = await handler.handle_request({**bodies[0], "temperature": 1.5, "top_p": 1e-6}, "1")
        assert json.loads(sampled.body)["choices"][0]["text"] == alone()[0], "before it is drawn, too"

    without, how = alone(), loaded.model.get_base_model().generation_config
    monkeypatch.setattr(how, "repetition_penalty", 1.5)
    monkeypatch.setattr(how, "suppress_tokens", loaded.tokenizer.encode("f"))
    monkeypatch.setattr(how, "begin_suppress_tokens", [5, 6, 7])
    assert all(one != other for one, other in zip(alone(), without, strict=True))
    with_handler(loaded, work)
