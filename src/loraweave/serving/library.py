"""A library of experts, served: each is read when it is first asked for, and what changes in the library is taken over
while requests run. A request keeps the expert that it began with, though that be replaced or removed meanwhile."""

import asyncio
import itertools
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from loraweave.errors import UserError
from loraweave.experts.fitting import Fitting, Pairs
from loraweave.experts.manager import ExpertManager
from loraweave.experts.manifest import AUTO, Expert
from loraweave.experts.manifest import BASE as BASE_NAME
from loraweave.experts.manifest import NAME as MANIFEST
from loraweave.experts.mixed import MixedBatches
from loraweave.serving.catalog import Catalog
from loraweave.serving.engine import FailedError
from loraweave.serving.refusals import RefusalError
from loraweave.serving.voices import BASE, Voice, per_token
from loraweave.tasks.examples import Prompt
from loraweave.tuner.model import may_be_routed

log = logging.getLogger("loraweave.serving")

Change = Callable[[Callable[[], None]], None]
"""Runs something while no batch is under way."""


class ExpertSpeakers:
    """The base of a library with its experts beside it; as `voices.Speakers`.

    Args:
        beside: the experts that are in memory.
    """

    alone: str | None = None
    adapter: str | None = None

    def __init__(self, beside: MixedBatches) -> None:
        self.base = beside.model
        self._beside = beside

    @contextmanager
    def speaking(self, voices: Sequence[tuple[Voice, int]]) -> Iterator[None]:
        """As of `voices.Speakers`."""
        numbers = {name: number for number, name in enumerate(self._beside.names)}
        # Whose expert is gone was given up, and is in this batch for the last time.
        own = ((numbers.get(voice.adapter or BASE_NAME, 0), count) for voice, count in voices)
        ids = per_token(own, self.base.device)
        with self._beside.call_context.use(ids[None]):
            yield


class LibraryCatalog(Catalog):
    """The names of a library: `NAME:expert` for each of its experts, `NAME:auto`, and `base`.

    Experts are read in a thread of their own, and requests are routed in another one: who asks for the base, or for an
    expert that is in memory, waits for neither.

    Args:
        manager: the library on its base, and its routing.
        beside: where experts stand that are in memory.
        name: of the library.
        most: experts that are kept in memory while nobody asks for them.

    Attributes:
        change: how the experts in memory are changed while batches run; at once, until it is told otherwise.
    """

    def __init__(self, manager: ExpertManager, beside: MixedBatches, name: str, most: int) -> None:
        super().__init__(name, manager.model, manager.tokenizer)
        self.change: Change = lambda work: work()
        self._manager = manager
        self._fitting = Fitting.of(manager.model)
        self._beside = beside
        self._most = most
        self._serial = itertools.count(1)
        self._there: OrderedDict[str, Expert] = OrderedDict()
        self._users: Counter[str] = Counter()
        self._counting = threading.Lock()  # of the two above
        self._reader = ThreadPoolExecutor(1, "loraweave-experts")
        self._router = ThreadPoolExecutor(1, "loraweave-routing")
        self._looking = threading.Lock()
        self._seen, self._routed = self._stamp(), (-1, 0, 0)
        self._known = manager.library.experts()

    @property
    def names(self) -> list[str]:
        """Every name that there is now."""
        return [f"{self.name}:{one}" for one in (*self._known, AUTO)] + [BASE_NAME]

    @property
    def texts(self) -> list[str]:
        """The names of the experts that were trained on plain prompts."""
        return [f"{self.name}:{name}" for name, expert in self._known.items() if expert.plain]

    def voice(self, name: str) -> Voice:
        """The base's, for every name that there is: whose it is comes out when the request is answered.

        Raises:
            RefusalError: 404, there is no such model.
        """
        self.refresh()
        if name not in self.names:
            raise self.unknown(name)
        return BASE

    @asynccontextmanager
    async def speaking(self, name: str, said: Prompt) -> AsyncIterator[tuple[str, Voice]]:
        """As of `Catalog`; for `NAME:auto` the name is that of whom the routing found."""
        expert = name.partition(":")[2]
        if expert == AUTO:
            try:
                expert = await asyncio.get_running_loop().run_in_executor(self._router, self._route, said)
            except UserError as error:
                raise RefusalError(400, str(error), "messages") from None
        if not expert:
            yield BASE_NAME, BASE
            return
        key = self._claimed(expert) or await self._read(expert)
        try:
            yield f"{self.name}:{expert}", Voice(key)
        finally:
            self._let_go(key)

    def refresh(self) -> None:
        """Take over what has changed in the library since it was last looked at; what cannot be read is logged, and
        what was there goes on."""
        with self._looking:
            if (stamp := self._stamp()) == self._seen:
                return
            self._seen = stamp  # also of what cannot be read: it is told once
            try:
                self._known = self._manager.library.experts()
            except UserError as error:
                log.warning("the library could not be read: %s", error)

    def first(self, count: int) -> list[Voice]:
        """Voices of the first experts that can be read, for a trial: no more than are kept when nobody uses them."""
        found: list[Voice] = []
        for name in self._known:
            with suppress(RefusalError):
                found.append(Voice(self._ready(name)))
                self._let_go(str(found[-1].adapter))
            if len(found) == min(count, self._most):
                break
        return found

    def _route(self, said: Prompt) -> str:
        """Whom a request is routed to; empty for the base."""
        if self._routed != (seen := self._seen):
            self._routed = seen
            try:
                self._manager.refresh()
            except UserError as error:
                log.warning("requests are routed as before the library changed: %s", error)
        return self._manager.route(said).expert or ""

    def _claimed(self, name: str) -> str | None:
        """The name in the batch of an expert as it is now, which is kept until its user is gone; None where it is not
        in memory."""
        now = self._known.get(name)
        with self._counting:
            key = next((key for key, there in self._there.items() if there.is_still(now)), None)
            if key is not None:
                self._there.move_to_end(key)
                self._users[key] += 1
        return key

    def _let_go(self, key: str) -> None:
        """A user of an expert is gone."""
        with self._counting:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
            gone = self._superfluous()
        if gone:
            self._reader.submit(self._tidy)

    async def _read(self, name: str) -> str:
        """As `_claimed`, once the expert is in memory."""
        reading = asyncio.get_running_loop().run_in_executor(self._reader, self._ready, name)
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:  # its client is gone, and the thread reads on
            reading.add_done_callback(self._unread)
            raise

    def _unread(self, reading: "asyncio.Future[str]") -> None:
        if not reading.cancelled() and reading.exception() is None:
            self._let_go(reading.result())

    def _ready(self, name: str) -> str:
        """Read an expert, unless somebody has; returns as `_claimed`.

        Raises:
            RefusalError: it is there no more, or cannot be read.
        """
        if (key := self._claimed(name)) is not None:
            return key
        if (expert := self._known.get(name)) is None:
            raise self.unknown(f"{self.name}:{name}")
        key = f"{name}@{next(self._serial)}"
        try:
            pairs = self._pairs(name)
            self.change(lambda: self._beside.put({key: pairs}))
        except (UserError, MemoryError, torch.OutOfMemoryError) as error:
            log.error("the expert %s cannot be read: %s", name, error)
            told = f"the expert {name} cannot be read; the server's log says why"
            raise RefusalError(503, told, "model") from None
        with self._counting:
            self._there[key] = expert
            self._users[key] += 1
        self._tidy()
        return key

    def _superfluous(self) -> list[str]:
        """Experts in memory that nobody uses, and that are in the library no more, or more than are kept."""
        idle = [key for key in self._there if key not in self._users]
        old = [key for key in idle if not self._there[key].is_still(self._known.get(self._there[key].name))]
        kept = [key for key in idle if key not in old]
        return old + kept[: max(0, len(kept) - self._most)]

    def _tidy(self) -> None:
        """Let those out who are superfluous."""
        with self._counting:
            gone = self._superfluous()
            for key in gone:
                del self._there[key]
        if gone:
            with suppress(FailedError):  # nothing is answered any more
                self.change(lambda: self._beside.remove(gone))

    def _pairs(self, name: str) -> Pairs:
        """An expert's factors; raises UserError for one with layers that do not see all tokens of a batch."""
        model: Any = self._manager.model
        pairs = self._fitting.pairs(self._manager.library.load(name))
        head = model.get_output_embeddings()
        for path in pairs:
            if model.get_submodule(path) is head or may_be_routed(model, path):
                raise UserError(f"it changes {path}, which does not see all tokens of a batch")
        return pairs

    def _stamp(self) -> tuple[int, int, int]:
        try:
            stat = (Path(self._manager.library.folder) / MANIFEST).stat()
        except OSError:
            return (0, 0, 0)
        return stat.st_mtime_ns, stat.st_ino, stat.st_size
