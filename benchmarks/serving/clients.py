"""A server as a process, and clients that ask it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Said:
    """An answer.

    Attributes:
        status: of HTTP.
        text: of the answer, or what was wrong.
        tokens: of it.
        first: seconds to its first piece, where it was streamed.
    """

    status: int
    text: str
    tokens: int = 0
    first: float | None = None


@dataclass
class Running:
    """A server that runs.

    Attributes:
        address: host and port.
        process: to look at.
    """

    address: str
    process: psutil.Process

    def ask(self, body: dict[str, Any], hang_up_after: int | None = None) -> Said:
        """One completion; hung up after so many pieces of a stream, where a number is given."""
        connection = HTTPConnection(self.address, timeout=300)
        began = time.perf_counter()
        try:
            headers = {"content-type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            response = connection.getresponse()
            if response.status != 200 or not body.get("stream"):
                content = json.loads(response.read())
                if response.status != 200:
                    return Said(response.status, content["error"]["message"])
                return Said(200, content["choices"][0]["text"], content["usage"]["completion_tokens"])
            first, text, tokens, pieces = None, "", 0, 0
            for line in response:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    return Said(500, event["error"]["message"])
                first = first or time.perf_counter() - began
                pieces += 1
                if pieces == hang_up_after:
                    break
                text += event["choices"][0]["text"] if event["choices"] else ""
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            return Said(200, text, tokens, first)
        finally:
            connection.close()

    @property
    def memory(self) -> int:
        """Bytes that the process holds now."""
        return int(self.process.memory_info().rss)


@contextmanager
def served(folder: Path, *options: str, log: Path | None = None) -> Iterator[Running]:
    """`loraweave serve` on a folder, for the block."""
    command = [sys.executable, "-c", "from loraweave.cli import main; main()", "serve", str(folder), "--port", "0"]
    with (log or Path(os.devnull)).open("w") as errors:
        started = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert started.stdout is not None
        for line in started.stdout:
            if found := re.search(r"serving\s+http://(\S+)/v1", line):
                yield Running(found[1], psutil.Process(started.pid))
                break
        else:
            raise RuntimeError(f"the server on {folder} ended with {started.wait()}")
    finally:
        started.terminate()
        started.wait(180)
