"""One batch that never ends: requests wait for a place, are answered together, and give their place back.

A request comes into the batch when there is room in the cache for its prompt and its longest answer, so that none is
thrown out half way. Whoever goes away before the end is taken out at the next token.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from transformers.generation.continuous_batching.requests import GenerationOutput

from loraweave.errors import UserError
from loraweave.serving.batching import VoicedBatches, log
from loraweave.serving.limits import Limits, Room, room_for
from loraweave.serving.sampling import Asked
from loraweave.serving.voices import AnySpeakers

GONE = "the server does not answer any more; it must be started again"


class FullError(Exception):
    """As many requests wait as may."""


class FailedError(Exception):
    """An answer that cannot be given, through no fault of the request."""


@dataclass(eq=False)
class Answer:
    """The answer to one request, as it grows.

    Attributes:
        asked: the request.
        number: its own.
        began: when it came into the batch, by `time.perf_counter`; None while it waits.
        first: when its first token came.
        written: its tokens.
    """

    asked: Asked
    number: str
    began: float | None = None
    first: float | None = None
    written: list[int] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _error: str | None = None
    _done: bool = False

    @property
    def pages(self) -> int:
        """The blocks of the cache that it takes at most."""
        return Room.pages_of(len(self.asked.prompt) + self.asked.longest)

    async def tokens(self) -> AsyncIterator[list[int]]:
        """Its tokens, some at a time, as they come.

        Raises:
            FailedError: the batch that it was in failed.
        """
        seen = 0
        while True:
            await self._news.wait()
            self._news.clear()
            if len(self.written) > seen:
                new, seen = self.written[seen:], len(self.written)
                yield new
            if self._error is not None:
                raise FailedError(self._error)
            if self._done and len(self.written) == seen:
                return

    def hear(self, written: Sequence[int] = (), error: str | None = None, done: bool = False) -> None:
        """Take what there is of it by now."""
        if len(written) > len(self.written):
            self.first = self.first or time.perf_counter()
            self.written.extend(written[len(self.written) :])
        self._error, self._done = error, done
        self._news.set()


class Engine:
    """Answers requests on one model, in one batch.

    Args:
        speakers: the model.
        limits: how many at once, and how many may wait.

    Raises:
        UserError: Transformers has no continuous batching for this base, or there is too little memory.

    Attributes:
        base: what runs.
        room: what a request may take.
        vocabulary: how many tokens the base knows.
    """

    def __init__(self, speakers: AnySpeakers, limits: Limits) -> None:
        self.base = speakers.base
        self.vocabulary: int = self.base.get_input_embeddings().weight.shape[0]
        self.limits = limits
        self.room = room_for(speakers.base, limits)
        try:
            self._batches = VoicedBatches(speakers, self.room.settings, self._deliver, self._ended)
            self._batches.warmup()  # makes the cache
        except (MemoryError, RuntimeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            kind = speakers.base.config.model_type
            raise UserError(f"a base of the kind {kind!r} cannot be served: {' '.join(str(error).split())}") from error
        self._numbers = itertools.count(1)
        self._waiting: deque[Answer] = deque()
        self._running: dict[str, Answer] = {}
        self._taken = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def waiting(self) -> int:
        """Requests without a place."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._running)

    @property
    def taken(self) -> float:
        """The share of the cache that is promised to requests in the batch."""
        return self._taken / self.room.pages

    @property
    def alive(self) -> bool:
        """Whether the batch goes on."""
        return self._batches.is_running() and self._batches.background_thread_status.fatal_error is None

    def start(self) -> None:
        """Begin to answer, in a thread, or go on to; called in the event loop that requests come from."""
        self._loop = asyncio.get_running_loop()
        if not self._batches.is_running():
            self._batches.start()

    async def stop(self) -> None:
        """End; whatever has no answer by then fails."""
        await asyncio.to_thread(self._batches.end)

    def change(self, work: Callable[[], None]) -> None:
        """Do something to the model while no batch is under way; what runs goes on afterwards. Not called in the event
        loop, which it would hold up.

        Raises:
            FailedError: nothing is answered any more.
        """
        if not self._batches.is_running():
            raise FailedError(GONE)
        try:
            with self._batches.pause():
                work()
        except RuntimeError as error:
            if self.alive:
                raise
            raise FailedError(GONE) from error

    @asynccontextmanager
    async def answering(self, asked: Asked) -> AsyncIterator[Answer]:
        """Put a request in; when the block ends before its answer does, it is taken out again.

        Raises:
            FullError: too many are waiting.
            FailedError: nothing is answered any more.
        """
        if not self.alive:
            raise FailedError(GONE)
        answer = Answer(asked, str(next(self._numbers)))
        self._waiting.append(answer)
        self._admit()
        if answer in self._waiting and len(self._waiting) > self.limits.queue:
            self._waiting.remove(answer)
            raise FullError(f"{self.limits.queue} requests are waiting already")
        try:
            yield answer
        finally:
            if answer.number in self._running:
                self._batches.cancel_request(answer.number)
            self._leave(answer)

    def _admit(self) -> None:
        """Let requests into the batch, in the order in which they came, as long as there is room."""
        while self._waiting and len(self._running) < self.limits.batch:
            answer = self._waiting[0]
            if self._taken + answer.pages > self.room.pages:
                return
            self._waiting.popleft()
            if not self._batches.ask(answer.number, answer.asked):
                answer.hear(error=GONE)
                continue
            self._running[answer.number] = answer
            self._taken += answer.pages
            answer.began = time.perf_counter()

    def _leave(self, answer: Answer) -> None:
        """Give a request's place to others."""
        if self._running.pop(answer.number, None) is not None:
            self._taken -= answer.pages
        elif answer in self._waiting:
            self._waiting.remove(answer)
        self._admit()

    def _deliver(self, outputs: Sequence[GenerationOutput]) -> None:
        self._in_the_loop(self._heard, list(outputs))

    def _ended(self) -> None:
        self._in_the_loop(self._fail_all)

    def _in_the_loop(self, work: Callable[..., None], *args: Any) -> None:
        """From the thread that generates to the event loop."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(work, *args)
        except RuntimeError:  # the loop has ended
            log.debug("%s came after the end", work.__name__)

    def _heard(self, outputs: list[GenerationOutput]) -> None:
        for output in outputs:
            answer = self._running.get(output.request_id)
            if answer is not None:
                if output.is_finished():
                    self._leave(answer)
                failed = None if output.error is None else "the batch that this request was in failed; come again"
                answer.hear(output.generated_tokens, failed, output.is_finished())
            elif not output.is_finished():
                # Transformers passes over a cancellation that it reads before the request itself.
                self._batches.cancel_request(output.request_id)

    def _fail_all(self) -> None:
        """Nothing is generated any more. Transformers loses what it takes from its queue just as it is told to stop,
        and what is put there after it has failed: no answer waits for that."""
        left = [*self._waiting, *self._running.values()]
        self._waiting.clear()
        self._running.clear()
        self._taken = 0
        for answer in left:
            answer.hear(answer.written, GONE, done=True)
