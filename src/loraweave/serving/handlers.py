"""/v1/chat/completions and /v1/completions: from a body to tokens, and from tokens to what OpenAI's clients read."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send
from transformers import PreTrainedTokenizerBase

from loraweave.data.border import context_ids
from loraweave.errors import UserError
from loraweave.evaluation.lm import ends_of
from loraweave.serving.bodies import Body, ChatBody, TextBody, read_body
from loraweave.serving.catalog import Catalog
from loraweave.serving.engine import Engine, FailedError
from loraweave.serving.formats import ChatFormat, TextFormat, event, usage_of
from loraweave.serving.records import RECORD, Record
from loraweave.serving.refusals import RefusalError, told
from loraweave.serving.sampling import Asked, Sampling, rules_of
from loraweave.serving.text import Words
from loraweave.serving.voices import BASE
from loraweave.tasks.examples import Example, Prompt
from loraweave.tasks.messages import read_messages
from loraweave.tasks.shown import check_shown
from loraweave.tasks.template import apply_template
from loraweave.tasks.turn import Turn, special_tokens, turn_of

BEFORE = 8
"""Tokens of a prompt with which what goes on from it is decoded."""


@dataclass(frozen=True)
class Piece:
    """A part of an answer: its text, and on the last one why it ended."""

    text: str
    finish_reason: str | None = None


class Handler:
    """Requests of both kinds, as Transformers' server hands them on.

    Args:
        engine: that answers.
        catalog: the models by name.
        tokenizer: the base's.
        log_words: whether prompts and answers go into the log.
    """

    _reader = ThreadPoolExecutor(1, "loraweave-tokenizer")  # of all handlers: they have one tokenizer together

    def __init__(
        self, engine: Engine, catalog: Catalog, tokenizer: PreTrainedTokenizerBase, log_words: bool = False
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._tokenizer = tokenizer
        self._log_words = log_words
        self._turn = turn_of(tokenizer) if tokenizer.chat_template else None
        self._ends = tuple(ends_of(engine.base, tokenizer, self._turn))
        self._special = special_tokens(tokenizer)

    async def _aside(self, work: Callable[..., Any], *args: Any) -> Any:
        """Work with the tokenizer, which is slow where a text is long, beside the event loop: one text at a time, since
        tokenizers are not made for several threads."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, work, *args)

    async def _respond(
        self, body: Body, prompt: list[int], form: TextFormat, turn: Turn | None, text: str, said: Prompt
    ) -> JSONResponse | StreamingResponse:
        """The answer, whole or as a stream; nothing is sent before there is something of it."""
        record = RECORD.get()
        record.prompt_tokens = len(prompt)
        record.prompt = text if self._log_words else None
        stops, ends = self._stops(body)
        asked = Asked(tuple(prompt), BASE, self._longest(body, prompt), (*self._ends, *ends), _sampling(body))
        asked = replace(asked, rules=rules_of(self._engine.base, asked))
        words = Words(self._tokenizer, stops, turn, () if turn else prompt[-BEFORE:])
        pieces = self._pieces(asked, body.model, said, words, form, record)
        if not body.stream:
            async with aclosing(pieces):
                parts = [piece async for piece in pieces]
            usage = usage_of(record.prompt_tokens, record.completion_tokens)
            return JSONResponse(form.whole("".join(p.text for p in parts), parts[-1].finish_reason, usage))
        first = await anext(pieces)  # until here there may be a refusal, with a status of its own
        form.counted = bool(body.stream_options and body.stream_options.include_usage)
        return _Stream(_events(first, pieces, form, record), pieces)

    async def _pieces(
        self, asked: Asked, model: str, said: Prompt, words: Words, form: TextFormat, record: Record
    ) -> AsyncGenerator[Piece, None]:
        """The answer's text as it comes, by whoever speaks under a name; the last piece says why it ended."""
        async with self._catalog.speaking(model, said) as (form.model, voice):
            record.model = form.model
            async with aclosing(self._written(replace(asked, voice=voice), words, record)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _written(self, asked: Asked, words: Words, record: Record) -> AsyncGenerator[Piece, None]:
        said = [""]
        async with self._engine.answering(asked) as answer:
            try:
                async for tokens in answer.tokens():
                    said.append(words.take(tokens))
                    record.completion_tokens = len(answer.written)
                    record.queued, record.first = record.since(answer.began), record.since(answer.first)
                    if words.stopped:
                        break
                    if said[-1]:
                        yield Piece(said[-1])
                last = said[-1] if words.stopped else words.rest()
                ended = words.stopped or (answer.written and answer.written[-1] in asked.ends)
                record.finish_reason = "stop" if ended else "length"
                said += [] if words.stopped else [last]
                yield Piece(last, record.finish_reason)
            finally:
                record.answer = "".join(said) if self._log_words else None

    def _stops(self, body: Body) -> tuple[list[str], list[int]]:
        """Where an answer is to end before its own end: at texts, and at special tokens, which no text has."""
        ends = [self._special[stop] for stop in body.stops if stop in self._special]
        texts = [stop for stop in body.stops if stop not in self._special]
        for stop in texts:
            for token in self._special:
                if token in stop:
                    says = f"{stop[:80]!r} has the special token {token!r} in it, which no answer's text has"
                    raise RefusalError(400, f"stop: {says}; give that alone", "stop")
        return texts, ends

    def _longest(self, body: Body, prompt: Sequence[int | None]) -> int:
        """The most tokens of the answer, once the prompt is found to be one that the base can read."""
        context, known = self._engine.room.context, self._engine.vocabulary
        param = "messages" if isinstance(body, ChatBody) else "prompt"
        left = context - len(prompt)
        if left < 1:
            raise RefusalError(
                400,
                f"the prompt has {len(prompt):,} tokens, and a request {context:,} at most, prompt and answer together",
                param,
                "context_length_exceeded",
            )
        for token in prompt:
            if token is None:  # of a tokenizer that has neither a start nor an end
                raise RefusalError(400, "the prompt is empty, and the base has no token that begins a text", param)
            if not 0 <= token < known:
                raise RefusalError(400, f"{param}: {token} is no token of the base, which has {known:,}", param)
        name, asked = body.longest
        if asked is not None and asked > left:
            raise RefusalError(
                400,
                f"{asked:,} tokens of answer after a prompt of {len(prompt):,} are more than a request may have, "
                f"{context:,} together",
                name,
                "context_length_exceeded",
            )
        return asked or min(left, self._engine.limits.answer)


class ChatHandler(Handler):
    """/v1/chat/completions."""

    async def handle_request(self, body: dict[str, Any], request_id: str) -> JSONResponse | StreamingResponse:
        """The answer to a chat.

        Raises:
            RefusalError: what the body asks for cannot be given.
        """
        read = read_body(ChatBody, body)
        await self._aside(self._catalog.voice, read.model)  # a name that there is not is told first
        if self._turn is None:
            raise RefusalError(
                400, "the base's tokenizer has no chat template: send texts to /v1/completions", "messages"
            )
        try:
            messages = read_messages(read.messages, "messages", "the request")
            text, ids = await self._aside(self._prompt, messages)
        except UserError as error:
            raise RefusalError(400, str(error), "messages") from None
        return await self._respond(read, ids, ChatFormat(read.model), self._turn, text, messages)

    def _prompt(self, messages: Sequence[dict[str, Any]]) -> tuple[str, list[int]]:
        text = apply_template(self._tokenizer, messages, add_generation_prompt=True)
        check_shown(Example(list(messages), ""), self._tokenizer)
        return text, context_ids(text, self._tokenizer)


class TextHandler(Handler):
    """/v1/completions."""

    async def handle_request(self, body: dict[str, Any], request_id: str) -> JSONResponse | StreamingResponse:
        """What goes on from a text.

        Raises:
            RefusalError: what the body asks for cannot be given.
        """
        read = read_body(TextBody, body)
        await self._aside(self._catalog.voice, read.model)  # a name that there is not is told first
        prompt = read.prompt
        if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
            prompt = prompt[0]
        if isinstance(prompt, str):
            try:
                ids = await self._aside(context_ids, prompt, self._tokenizer)
            except UserError as error:
                raise RefusalError(400, str(error), "prompt") from None
            return await self._respond(read, ids, TextFormat(read.model), None, prompt, prompt)
        if not prompt or not isinstance(prompt[0], int):
            raise RefusalError(400, "prompt: one text, or one list of token ids, in each request", "prompt")
        tokens = [token for token in prompt if isinstance(token, int)]
        self._longest(read, tokens)
        text = str(await self._aside(self._tokenizer.decode, tokens))
        said = str(await self._aside(partial(self._tokenizer.decode, tokens, skip_special_tokens=True)))
        return await self._respond(read, tokens, TextFormat(read.model), None, text, said)


class _Stream(StreamingResponse):
    """Server-sent events of an answer, which is let go however the response ends, before its first event too."""

    def __init__(self, events: AsyncIterator[str], pieces: AsyncGenerator[Piece, None]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._pieces):
            await super().__call__(scope, receive, send)


async def _events(first: Piece, pieces: AsyncIterator[Piece], form: TextFormat, record: Record) -> AsyncIterator[str]:
    """An answer as server-sent events."""
    try:
        for opening in form.opening():
            yield opening
        yield form.piece(first.text, first.finish_reason)
        async for piece in pieces:
            yield form.piece(piece.text, piece.finish_reason)
    except FailedError as error:  # too late for a status: the stream has begun
        refusal = told(error)
        record.status, record.error = refusal.status, refusal.message
        yield event(refusal.body)
        return
    if form.counted:
        yield form.usage(usage_of(record.prompt_tokens, record.completion_tokens))
    yield "data: [DONE]\n\n"


def _sampling(body: Body) -> Sampling:
    """How a request wants its tokens drawn: greedily where it says nothing, as an evaluation scores."""
    temperature = body.temperature if body.temperature is not None else 0.0 if body.top_p is None else 1.0
    seed = body.seed if body.seed is not None else random.getrandbits(62)
    return Sampling(temperature, 1.0 if body.top_p is None else body.top_p, seed)
