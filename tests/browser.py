"""A page in a real headless Chromium, driven through its debugging pipe, for tests of what people will see."""

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
WITHOUT = "no Chromium on the path, and CHROME does not name one"


def executable() -> str | None:
    """The browser to use: $CHROME, or the first of its usual names that is installed."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CHROME"), *NAMES)))), None)


@dataclass
class Page:
    """An open page; what it asked for and what went wrong fills up until it is closed."""

    browser: "Browser"
    session: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.browser.call("Runtime.evaluate", self.session, expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")


class Browser:
    """A running browser: commands go down one pipe, answers and events come up the other."""

    def __init__(self, down: int, up: int) -> None:
        self._down, self._up = os.fdopen(down, "wb", 0), os.fdopen(up, "rb", 0)
        self._numbers, self._left, self._pages = itertools.count(1), b"", {}

    def open(self, path: Path | str, width: int, dark: bool = False) -> Page:
        """A page, of a file or at an address, loaded to its end, on a screen of `width` px."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", session, **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", session, features=[scheme])
        self.call("Page.navigate", session, url=path.as_uri() if isinstance(path, Path) else path)
        while self._next().get("method") != "Page.loadEventFired":
            pass
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the DevTools protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        self._down.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        """The next message, noted where it is an event that a page wants to know of."""
        while b"\0" not in self._left:
            more = self._up.read(1 << 16)
            assert more, "the browser went away"
            self._left += more
        text, self._left = self._left.split(b"\0", 1)
        message = json.loads(text)
        page, said = self._pages.get(message.get("sessionId")), message.get("params", {})
        if page and message.get("method") == "Network.requestWillBeSent":
            page.requests.append(said["request"]["url"])
        elif page and message.get("method") == "Runtime.exceptionThrown":
            page.errors.append(said["exceptionDetails"]["text"])
        elif page and message.get("method") == "Log.entryAdded" and said["entry"]["level"] in ("warning", "error"):
            page.errors.append(said["entry"]["text"])
        return message


@contextmanager
def running(profile: Path) -> Iterator[Browser]:
    """A browser with an empty `profile` folder for as long as the block lasts."""
    command = [executable() or NAMES[0], "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    (child_in, down), (up, child_out) = os.pipe(), os.pipe()
    # The browser reads from its file descriptor 3 and writes to 4; the shell puts the pipes there.
    script = f'exec "$@" 3<&{child_in} 4>&{child_out}'
    started = subprocess.Popen(
        ["bash", "-c", script, "bash", *command, f"--user-data-dir={profile}"],
        pass_fds=(child_in, child_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(child_in)
    os.close(child_out)
    try:
        browser = Browser(down, up)
        yield browser
        browser.call("Browser.close")
    finally:
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
