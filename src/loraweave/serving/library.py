"""A library of experts, served: each is read when it is first asked for, and what changes in the library is taken over
while requests run. A request keeps the expert that it began with, though that be replaced or removed meanwhile."""

import asyncio
import itertools
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from loraweave.errors import UserError
from loraweave.experts.fitting import Fitting, Pairs
from loraweave.experts.manager import ExpertManager
from loraweave.experts.manifest import AUTO, Expert
from loraweave.experts.manifest import BASE as BASE_NAME
from loraweave.experts.manifest import NAME as MANIFEST
from loraweave.experts.mixed import MixedBatches
from loraweave.serving.catalog import Catalog
from loraweave.serving.refusals import RefusalError
from loraweave.serving.voices import BASE, Voice, per_token
from loraweave.tasks.examples import Message
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
        ids = per_token(((numbers[voice.adapter or BASE_NAME], count) for voice, count in voices), self.base.device)
        with self._beside.call_context.use(ids[None]):
            yield


class LibraryCatalog(Catalog):
    """The names of a library: `NAME:expert` for each of its experts, `NAME:auto`, and `base`.

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
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._seen = self._stamp()

    @property
    def names(self) -> list[str]:
        """Every name that there is now."""
        return [f"{self.name}:{one}" for one in (*self._manager.experts, AUTO)] + [BASE_NAME]

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
    async def speaking(self, name: str, said: str | Sequence[Message]) -> AsyncIterator[tuple[str, Voice]]:
        """As of `Catalog`; for `NAME:auto` the name is that of whom the routing found."""
        expert = name.partition(":")[2]
        if expert == AUTO:
            try:
                expert = (await asyncio.to_thread(self._manager.route, said)).expert or ""
            except UserError as error:
                raise RefusalError(400, str(error)) from None
        if not expert:
            yield BASE_NAME, BASE
            return
        reading = asyncio.ensure_future(asyncio.to_thread(self._ready, expert))
        try:
            key = await asyncio.shield(reading)
        except asyncio.CancelledError:  # its client is gone, and the thread reads on
            reading.add_done_callback(self._unread)
            raise
        try:
            yield f"{self.name}:{expert}", Voice(key)
        finally:
            self._count(key, -1)

    def _unread(self, reading: "asyncio.Future[str]") -> None:
        if not reading.cancelled() and reading.exception() is None:
            self._count(reading.result(), -1)

    def refresh(self) -> None:
        """Take over what has changed in the library since it was last looked at; what cannot be read is logged, and
        what was there goes on."""
        with self._lock:
            if (stamp := self._stamp()) == self._seen:
                return
            try:
                self._manager.refresh()
                self._seen = stamp
            except UserError as error:
                log.warning("the library could not be read: %s", error)

    def first(self, count: int) -> list[Voice]:
        """Voices of the first experts that can be read, for a trial."""
        found: list[Voice] = []
        for name in self._manager.experts:
            with suppress(RefusalError):
                found.append(Voice(self._ready(name)))
                self._count(str(found[-1].adapter), -1)
            if len(found) == count:
                break
        return found

    def _ready(self, name: str) -> str:
        """The name in the batch of an expert as it is now, in memory and kept there until its user is gone.

        Raises:
            RefusalError: it is there no more, or cannot be read.
        """
        with self._lock:
            try:
                now = self._manager.library.experts()
                if name not in now:
                    raise self.unknown(f"{self.name}:{name}")
                key = next((key for key, there in self._there.items() if there == now[name]), None)
                key = key or self._put(now[name], self._pairs(name))
            except UserError as error:
                log.error("the expert %s cannot be read: %s", name, error)
                told = f"the expert {name} cannot be read; the server's log says why"
                raise RefusalError(503, told, "model") from None
            self._there.move_to_end(key)
            self._count(key, 1)
            self._tidy(now)
            return key

    def _put(self, expert: Expert, pairs: Pairs) -> str:
        """Let an expert in; returns its name in the batch."""
        key = f"{expert.name}@{next(self._serial)}"
        self.change(lambda: self._beside.put({key: pairs}))
        self._there[key] = expert
        return key

    def _tidy(self, now: Mapping[str, Expert]) -> None:
        """Let those out whom nobody uses: who are in the library no more, and who are more than are kept."""
        idle = [key for key in self._there if key not in self._users]
        old = [key for key in idle if now.get(self._there[key].name) != self._there[key]]
        kept = [key for key in idle if key not in old]
        gone = old + kept[: max(0, len(kept) - self._most)]
        if gone:
            self.change(lambda: self._beside.remove(gone))
        for key in gone:
            del self._there[key]

    def _count(self, key: str, more: int) -> None:
        """So many users of an expert more, or fewer."""
        with self._counting:
            self._users[key] += more
            if not self._users[key]:
                del self._users[key]

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
