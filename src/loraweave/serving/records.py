"""What is known of each request, for the log and the counters: never its words, unless they are asked for."""

import json
import logging
import sys
import time
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

log = logging.getLogger("loraweave.serving.requests")


@dataclass
class Record:
    """One request.

    Attributes:
        id: its own, or the client's `x-request-id`.
        status: of HTTP; 499 where the client went away.
        model: as it was asked for, where there is one of that name.
        queued, first, seconds: until its place in the batch, its first token and its end, in seconds.
        prompt, answer: its words, where the log wants them.
    """

    id: str
    method: str
    path: str
    client: str = ""
    status: int = 0
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None
    queued: float | None = None
    first: float | None = None
    seconds: float = 0.0
    error: str | None = None
    prompt: str | None = None
    answer: str | None = None
    began: float = field(default_factory=time.perf_counter)

    def since(self, moment: float | None) -> float | None:
        """Seconds from its beginning to a moment."""
        return None if moment is None else moment - self.began


RECORD: ContextVar[Record] = ContextVar("loraweave_serving_record")
"""The request that is answered here."""


class _Lines(logging.Formatter):
    """A JSON object in each line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        said: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        said |= getattr(record, "fields", {})
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False, default=str)


def write_log() -> None:
    """From here on, log lines of the server go to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for name, level in (("loraweave.serving", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def write_record(record: Record) -> None:
    """A request that has ended, as a line of the log."""
    said = {name: value for name, value in asdict(record).items() if value not in (None, "") and name != "began"}
    said |= {name: round(said[name], 4) for name in ("queued", "first", "seconds") if name in said}
    log.info("request", extra={"fields": said})
