"""What every request passes before it is looked at: its key, its size, its time; and what notices that a client left.

A request's body is read here, whole, before anything else happens with it. From then on a watch waits for the client:
when it goes away, or the time is over, whatever is being done for it is cancelled.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loraweave.serving.formats import event
from loraweave.serving.keys import Keys
from loraweave.serving.limits import Limits
from loraweave.serving.records import RECORD, Record, log, write_record
from loraweave.serving.refusals import CROWDED, RefusalError, refused, told

OPEN = ("/", "/health", "/ready")
"""Paths that need no key: they tell nothing and cost nothing."""
UNSEEN = ("/health", "/ready", "/metrics")
"""Paths that are asked for every few seconds, and not logged."""
GONE = 499
"""The status in the log of a request whose client went away, by nginx's custom."""
_ID = re.compile(rb"[\w.:-]{1,128}")


class Gate:
    """The app, behind the gate.

    Args:
        app: what answers.
        limits: of body and time.
        keys: who may ask.
        ended: called with the record of every request that has ended.
        host_names: the only hosts that requests may be sent to; empty for any. A page from elsewhere, in a browser on
            this machine, could send them to a name of its own that leads here.
        connections: how many are open.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        keys: Keys,
        ended: Callable[[Record], None],
        host_names: frozenset[str] = frozenset(),
        connections: Callable[[], int] = lambda: 0,
    ) -> None:
        self.app = app
        self._limits = limits
        self._keys = keys
        self._ended = ended
        self._hosts = host_names
        self._connections = connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        number = given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex
        client = scope["client"][0] if scope.get("client") else ""
        record = Record(number, scope["method"], scope["path"], client)
        scope.setdefault("state", {})["request_id"] = number
        RECORD.set(record)
        response = _Response(send, number, record)
        try:
            self._check(scope, headers)
            body = await self._body(headers, receive) if scope["method"] == "POST" else b""
            record.began = time.perf_counter()
            await self._answer(scope, body, receive, response, record)
        except _GoneError:
            record.status = GONE
        except asyncio.CancelledError:  # the server ends before the answer does
            record.status = 503
            raise
        except Exception as error:
            refusal = told(error)
            if refusal.status == 500:
                log.exception("a request failed", extra={"fields": {"id": number, "path": record.path}})
            record.error = refusal.message
            await response.refuse(refusal, scope)
        finally:
            record.seconds = time.perf_counter() - record.began
            if record.path not in UNSEEN:
                self._ended(record)
                write_record(record)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raise RefusalError for a request that may not come in."""
        if self._connections() > self._limits.connections:
            raise RefusalError(503, "as many connections are open as may be", code=CROWDED)
        host = headers.get(b"host", b"").decode("latin-1").rsplit("]", 1)
        name = host[0].lstrip("[") if len(host) == 2 else host[0].rsplit(":", 1)[0]
        if self._hosts and b"host" in headers and name.lower() not in self._hosts:  # a browser always names one
            raise RefusalError(421, f"this server answers to {', '.join(sorted(self._hosts))}: say --host for others")
        if self._keys and scope["path"] not in OPEN and not self._keys.allow(headers.get(b"authorization", b"")):
            raise RefusalError(401, "an API key is wanted: Authorization: Bearer KEY", code="invalid_api_key")

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The request's body.

        Raises:
            RefusalError: 413, it is too large; 408, it comes too slowly.
        """
        most = self._limits.body
        if int(headers.get(b"content-length", b"0")) > most:
            raise RefusalError(413, f"the body is larger than {most:,} bytes")

        async def whole() -> bytes:
            body = bytearray()
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _GoneError
                body += message.get("body", b"")
                if len(body) > most:
                    raise RefusalError(413, f"the body is larger than {most:,} bytes")
                if not message.get("more_body", False):
                    return bytes(body)

        try:
            return await asyncio.wait_for(whole(), self._limits.head_seconds)
        except asyncio.TimeoutError:
            raise RefusalError(408, f"the body did not come within {self._limits.head_seconds:g} seconds") from None

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, response: "_Response", record: Record) -> None:
        """Let the app answer, for as long as the client is there and the time lasts."""
        rest = asyncio.Event()  # never set: an app that waits for the client to go away is cancelled when it does
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def hand_on() -> Message:
            message = next(given, None)
            if message is None:
                await rest.wait()
            return message or {"type": "http.disconnect"}

        work = asyncio.ensure_future(self.app(scope, hand_on, response.send))
        watch = asyncio.ensure_future(_until_gone(receive))
        try:
            done, _ = await asyncio.wait((work, watch), timeout=self._limits.seconds, return_when="FIRST_COMPLETED")
            if work not in done and response.ended:  # the last words are on their way
                await work
            elif work not in done:
                work.cancel()
                await asyncio.wait((work,))
                if watch in done:
                    raise _GoneError
                raise RefusalError(503, f"not done within {self._limits.seconds:g} seconds", code="timeout")
            else:
                await work
        finally:
            for task in (work, watch):
                task.cancel()
            await asyncio.wait((work, watch))


class _GoneError(Exception):
    """The client went away."""


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Response:
    """What is sent, noted on the way."""

    def __init__(self, send: Send, number: str, record: Record) -> None:
        self._send = send
        self._number = number
        self._record = record
        self._started = self._streams = self.ended = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started, self._record.status = True, message["status"]
            headers = [(name, value) for name, value in message.get("headers", []) if name != b"x-request-id"]
            self._streams = any(value.startswith(b"text/event-stream") for _, value in headers)
            message = {**message, "headers": [*headers, (b"x-request-id", self._number.encode())]}
        self.ended = self.ended or (message["type"] == "http.response.body" and not message.get("more_body", False))
        await self._send(message)

    async def refuse(self, refusal: RefusalError, scope: Scope) -> None:
        """Tell what is wrong: as the response, or as the last event of a stream that has begun."""
        if not self._started:
            await refused(refusal)(scope, _nothing, self.send)
            return
        self._record.status = refusal.status
        if self._streams and not self.ended:
            await self.send({"type": "http.response.body", "body": event(refusal.body).encode(), "more_body": False})


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
