"""The queue, the batch and its cache: places are given in order, given back, and a failure takes nobody else along."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from loraweave import UserError
from loraweave.serving.engine import Engine, FailedError, FullError
from loraweave.serving.limits import PAGE, Limits, Room, room_for
from loraweave.serving.sampling import Asked
from loraweave.serving.voices import BASE, Speakers

PROMPT = (3, 4, 5, 6)


def asked(longest=4, prompt=PROMPT):
    return Asked(prompt, BASE, longest, ())


def with_engine(model, limits, work, before=lambda speakers: None):
    async def go():
        speakers = Speakers(model)
        before(speakers)
        engine = Engine(speakers, limits)
        engine.start()
        try:
            return await asyncio.wait_for(work(engine), 60)
        finally:
            await engine.stop()

    return asyncio.run(go())


async def whole(engine, request):
    async with engine.answering(request) as answer:
        async for _ in answer.tokens():
            pass
        return answer.written


async def until(wanted):
    while not wanted():
        await asyncio.sleep(0.01)


def test_places_are_given_in_order_and_given_back(tiny_model):
    async def work(engine):
        order = []

        async def one(number):
            async with engine.answering(asked(6)) as answer:
                async for _ in answer.tokens():
                    if number not in order:
                        order.append(number)

        tasks = [asyncio.create_task(one(number)) for number in range(9)]
        await asyncio.sleep(0)
        assert (engine.running, engine.waiting) == (2, 7)
        await asyncio.gather(*tasks)
        assert order == sorted(order)
        assert (engine.running, engine.waiting, engine.taken) == (0, 0, 0.0)

    with_engine(tiny_model(), Limits(batch=2, context=40), work)


def test_one_too_many_is_told_so_and_leaves_no_trace(tiny_model):
    async def work(engine):
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(engine.answering(asked(30)))
            with pytest.raises(FullError):
                await stack.enter_async_context(engine.answering(asked()))
            assert (engine.running, engine.waiting) == (1, 2)
        assert (engine.running, engine.waiting, engine.taken) == (0, 0, 0.0)
        assert len(await whole(engine, asked())) == 4, "and who comes later is answered"

    with_engine(tiny_model(), Limits(batch=1, queue=2, context=40), work)


def test_who_goes_away_gives_its_place_to_the_next(tiny_model):
    async def work(engine):
        async def gone():
            async with engine.answering(asked(36)) as answer:
                async for _ in answer.tokens():
                    raise asyncio.CancelledError

        first = asyncio.create_task(gone())
        await asyncio.sleep(0)
        assert len(await whole(engine, asked())) == 4
        assert first.cancelled()
        scheduler = engine._batches.batch_processor.scheduler
        await until(lambda: not scheduler.active_requests and not scheduler.waiting_requests)
        assert engine._batches.batch_processor.cache.compute_free_capacity() == 1.0, "its keys and values are gone too"

    with_engine(tiny_model(), Limits(batch=1, context=40), work)


def test_requests_wait_for_room_in_the_cache(tiny_model):
    base = tiny_model()
    one = room_for(base, Limits(batch=1, context=64)).pages
    bytes_of_a_page = PAGE * (2 * 2 * 2 * 8 * 4 + 512 * 4)
    limits = Limits(batch=8, context=64, memory=512 * 512 * 4 + 2 * one * bytes_of_a_page)

    async def work(engine):
        assert engine.room.pages == 2 * one
        most = 0

        async def watched():
            nonlocal most
            async with engine.answering(asked(60)) as answer:
                async for _ in answer.tokens():
                    most = max(most, engine.running)
                    assert engine.taken <= 1
                return answer.written

        answers = await asyncio.gather(*(watched() for _ in range(5)))
        assert most == 2
        assert len({tuple(answer) for answer in answers}) == 1
        assert len(answers[0]) == 60

    with_engine(base, limits, work)


def test_a_batch_that_fails_takes_its_own_requests_alone(tiny_model):
    model = tiny_model()
    broken = {"now": False}

    def fail(module, args, kwargs):
        if broken["now"]:
            broken["now"] = False
            raise RuntimeError("out of something")

    model.register_forward_pre_hook(fail, with_kwargs=True)

    async def work(engine):
        expected = await whole(engine, asked(8))
        broken["now"] = True
        found = await asyncio.gather(*(whole(engine, asked(8)) for _ in range(3)), return_exceptions=True)
        assert any(isinstance(one, FailedError) for one in found)
        assert all("out of something" not in str(one) for one in found), "what failed is for the log"
        assert all(one == expected for one in found if not isinstance(one, FailedError))
        assert engine.alive
        assert (engine.running, engine.waiting, engine.taken) == (0, 0, 0.0)
        assert await whole(engine, asked(8)) == expected
        assert engine._batches.batch_processor.cache.compute_free_capacity() == 1.0

    with_engine(model, Limits(batch=4, context=40), work)


def test_a_failure_that_says_nothing_is_no_end_of_an_answer(tiny_model):
    model = tiny_model()

    async def work(engine):
        model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(AssertionError()))
        with pytest.raises(FailedError, match="come again"):
            await whole(engine, asked(8))

    with_engine(model, Limits(batch=4, context=40), work)


def test_a_batch_that_cannot_go_on_fails_everybody_at_once(tiny_model):
    """Who waits as well, however many; and who is lost on the way into the batch, of whom Transformers says nothing."""

    async def work(engine):
        tasks = [asyncio.create_task(whole(engine, asked(36))) for _ in range(1200)]
        await asyncio.sleep(0)
        engine._batches.ask = lambda *lost: True
        lost = asyncio.create_task(whole(engine, asked()))

        def fails():
            raise RuntimeError("no more")

        engine._batches.batch_processor.prepare_next_batch = fails
        found = await asyncio.gather(*tasks, lost, return_exceptions=True)
        assert all(isinstance(one, FailedError) for one in found)
        assert (engine.running, engine.waiting, engine.taken) == (0, 0, 0.0)
        assert not engine.alive

    with_engine(tiny_model(), Limits(batch=2, queue=2000, context=40), work)


def test_what_nobody_waits_for_any_more_is_not_written(tiny_model):
    """As where Transformers reads a cancellation before the request that it is of, and forgets it."""

    async def work(engine):
        seen = []
        heard = engine._heard
        engine._heard = lambda outputs: (seen.extend(outputs), heard(outputs))
        assert engine._batches.ask("forgotten", asked(36))
        await until(lambda: seen)
        scheduler = engine._batches.batch_processor.scheduler
        await until(lambda: not scheduler.active_requests)
        assert not any(output.is_finished() for output in seen)
        assert engine._batches.batch_processor.cache.compute_free_capacity() == 1.0

    with_engine(tiny_model(), Limits(batch=1, context=40), work)


def test_after_the_end_nothing_is_taken(tiny_model):
    async def work(engine):
        async with engine.answering(asked(36)) as answer:
            await engine.stop()
            with pytest.raises(FailedError):
                async for _ in answer.tokens():
                    pass
        assert not engine.alive
        with pytest.raises(FailedError, match="must be started again"):
            await whole(engine, asked())

    with_engine(tiny_model(), Limits(batch=1, context=40), work)


def test_no_answer_waits_for_what_is_lost_at_the_end(tiny_model):
    async def work(engine):
        engine._batches.ask = lambda *lost: True  # as where a request is taken just as the batch is told to end
        async with engine.answering(asked()) as answer, engine.answering(asked()) as waiting:
            await engine.stop()
            for one in (answer, waiting):
                with pytest.raises(FailedError, match="must be started again"):
                    async for _ in one.tokens():
                        pass

    with_engine(tiny_model(), Limits(batch=1, context=40), work)


def test_answers_under_a_changing_load_are_those_of_before(tiny_model):
    async def work(engine):
        prompts = [tuple(range(3 + i, 8 + 3 * i)) for i in range(6)]
        alone = [await whole(engine, asked(10, prompt)) for prompt in prompts]
        together = await asyncio.gather(*(whole(engine, asked(10, prompt)) for prompt in prompts * 4))
        assert together == alone * 4

    with_engine(tiny_model().double(), Limits(batch=7, context=48), work)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(context=65), r"context of 65 tokens is more than the base was made for, 64"),
        (Limits(memory=10_000), r"0 MB for keys and values do not hold a request of 64 tokens, which takes"),
    ],
)
def test_room_that_there_is_not_is_told(limits, says, tiny_model):
    with pytest.raises(UserError, match=says):
        room_for(tiny_model(), limits)


def test_room_is_what_a_full_batch_takes(tiny_model):
    room = room_for(tiny_model(), Limits(batch=3, context=40))
    assert (room.context, room.pages) == (40, 3 * Room.pages_of(40))
    assert room_for(tiny_model(), Limits(batch=3)).context == 64


def test_requests_are_no_longer_than_what_leaves_the_positions_of_others_alone():
    """Phi 3 and 4 mini (longrope) turn all positions of a batch by its longest request."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 10_000.0}
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "pad_token_id": 0}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    long = {"original_max_position_embeddings": 16, "rope_parameters": rope}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("phi3", **sizes, **heads, **long))
    assert room_for(model, Limits(batch=3)).context == 16
    with pytest.raises(UserError, match=r"a context of 17 tokens: one request above 16 turns .*--context 16 at most"):
        room_for(model, Limits(context=17))
