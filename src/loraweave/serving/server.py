"""The server's process: from a folder to a port, until it is asked to end."""

import asyncio
import signal
import socket
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from transformers import PreTrainedTokenizerBase
from uvicorn.protocols.http.h11_impl import H11Protocol

from loraweave.errors import UserError
from loraweave.evaluation.loaded import load
from loraweave.experts.manager import ExpertManager
from loraweave.experts.manifest import NAME as MANIFEST
from loraweave.experts.mixed import MixedBatches
from loraweave.experts.routing import default_embedding
from loraweave.serving.app import build_app
from loraweave.serving.catalog import Catalog, RunCatalog, first_names, name_of
from loraweave.serving.engine import Engine
from loraweave.serving.folded import speakers_of
from loraweave.serving.keys import Keys
from loraweave.serving.library import ExpertSpeakers, LibraryCatalog
from loraweave.serving.limits import Limits
from loraweave.serving.records import write_log
from loraweave.serving.trial import LENGTHS, alone, check_together
from loraweave.serving.voices import BASE, AnySpeakers, Voice

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Serving:
    """What is to be served, and how.

    Attributes:
        folder: a run, an adapter, a library of experts, or a model.
        name: under which it is asked for; the folder's when None.
        host: the address that is listened at.
        port: likewise; 0 for any that is free.
        limits: of requests.
        keys: who may ask.
        base: the base's name or folder, in the place of the one that the folder names.
        dtype: of the base's weights; as they were for training when None.
        log_words: whether prompts and answers are logged.
        trust_code: run code that comes with the base.
        threshold: of a library, the cosine below which the base answers; see `experts.Router`.
        embedding: of a library, a model of sentence-transformers; the one that comes with the extra when None.
    """

    folder: Path
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=Keys)
    base: str | None = None
    dtype: str | None = None
    log_words: bool = False
    trust_code: bool = False
    threshold: float | None = None
    embedding: str | None = None


class Server(uvicorn.Server):
    """A server that ends well when it is asked to, by SIGTERM or SIGINT: what runs is finished first.

    Args:
        serving: what is served.

    Attributes:
        address: where, as a URL.
        engine: that answers.
        catalog: the models by name.
        names: of the models.
        notes: what people should know, one line each.

    Raises:
        UserError: there is nothing to serve, or not here.
    """

    def __init__(self, serving: Serving) -> None:
        self._socket = _listening(serving.host, serving.port)
        limits = serving.limits
        try:
            found = _opened(serving)
            speakers, catalog = found.speakers, found.catalog
            expected = alone(speakers, found.voices if len(found.voices) > 1 else found.voices * 2)
            engine = Engine(speakers, limits)
            asyncio.run(check_together(engine, expected, speakers.base.config.model_type))
        except BaseException:
            self._socket.close()
            raise
        if isinstance(catalog, LibraryCatalog):
            catalog.change = engine.change
        self.engine, self.catalog = engine, catalog
        self.names = catalog.names
        self.address = _url(serving.host, self._socket.getsockname()[1])
        self.notes = [*_notes(serving, found, engine), *found.notes]
        hosts = LOOPBACK if serving.host in LOOPBACK else frozenset()
        how = (limits, serving.keys, hosts, serving.log_words, lambda: len(self.server_state.connections))
        app = build_app(engine, catalog, found.tokenizer, *how)
        super().__init__(
            uvicorn.Config(
                app,
                http=type("Patient", (_Patient,), {"seconds": limits.head_seconds, "unread": limits.seconds}),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=int(limits.seconds) + 1,
            )
        )

    def listen(self, ready: Callable[[], None] = lambda: None) -> None:
        """Answer until asked to end.

        Args:
            ready: called as soon as whoever asks is heard.
        """
        write_log()
        self._ready = ready
        self.run(sockets=[self._socket])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, and then it is told that it is done."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn's, but a signal that was followed is not raised once more at the end."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


class _Patient(H11Protocol):
    """A connection that waits for the head of a request, and for a client that does not read, but for neither for ever.

    Attributes:
        seconds: until a head has come, however slowly it comes.
        unread: seconds until something is read of what the client's side of the connection does not take any more.
    """

    seconds = 10.0
    unread = 120.0
    _timer: TimerHandle | None = None
    _unread: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # it is told of every byte that is not taken
        self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.unread, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_unread()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_unread()
        if self._timer is not None:
            self._timer.cancel()

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


@dataclass(frozen=True)
class _Opened:
    """What a folder holds: its model, told who speaks; the names; a few voices to try; and what is to be said of it."""

    speakers: AnySpeakers
    catalog: Catalog
    voices: list[Voice]
    tokenizer: PreTrainedTokenizerBase
    notes: tuple[str, ...] = ()


def _opened(serving: Serving) -> _Opened:
    name = serving.name or name_of(serving.folder)
    if (serving.folder / MANIFEST).is_file():
        embed, *notes = _embedding(serving)
        how: dict[str, Any] = {"dtype": serving.dtype or "auto", "trust_code": serving.trust_code, "embed": embed}
        how |= {} if serving.threshold is None else {"threshold": serving.threshold}
        manager = ExpertManager(serving.folder, serving.base, **how)
        beside = MixedBatches(manager.model)
        library = LibraryCatalog(manager, beside, name, serving.limits.experts)
        voices = [*library.first(len(LENGTHS) - 1), BASE]
        return _Opened(ExpertSpeakers(beside), library, voices, manager.tokenizer, tuple(notes))
    for option, given in (("--threshold", serving.threshold), ("--embedding", serving.embedding)):
        if given is not None:
            raise UserError(f"{serving.folder}: {option} is of a library of experts, and this is none")
    loaded = load(serving.folder, base=serving.base, dtype=serving.dtype, trust_code=serving.trust_code)
    speakers = speakers_of(loaded.model)
    catalog = RunCatalog(loaded, speakers, name)
    voices = [*dict.fromkeys(catalog.voice(one) for one in catalog.names)]
    return _Opened(speakers, catalog, voices[: len(LENGTHS)], loaded.tokenizer)


def _embedding(serving: Serving) -> tuple[Any, ...]:
    """The embedding by which a library routes; None, and why, where the one that is taken by itself is not there."""
    try:
        return (default_embedding(serving.embedding),)
    except UserError as error:
        if serving.embedding is not None:
            raise
        return None, f"requests are routed by rule and prefix alone: {error}"


def _listening(host: str, port: int) -> socket.socket:
    """A socket at an address, taken before anything is loaded.

    Raises:
        UserError: it cannot be had.
    """
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot listen at {host} port {port}: {error}; choose others with --host and --port") from None
    return found


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _notes(serving: Serving, found: _Opened, engine: Engine) -> list[str]:
    room, speakers, catalog = engine.room, found.speakers, found.catalog
    notes = [
        f"up to {engine.limits.batch} requests at once, {room.context:,} tokens each; "
        f"the cache holds {room.pages * room.settings.page_size:,} tokens"
    ]
    if speakers.alone is not None and speakers.adapter is not None:
        notes.append(f"the base is not served beside this adapter: {speakers.alone}")
    if found.tokenizer.chat_template and (plain := catalog.texts):
        notes.append(
            f"trained on plain prompts: {first_names(plain)}: ask them by /v1/completions; chats go through the base's "
            "template, which they have not learned"
        )
    if serving.host not in LOOPBACK and not serving.keys:
        notes.append(f"everybody who reaches {serving.host} may ask: give keys with --api-keys, or stay at 127.0.0.1")
    return notes
