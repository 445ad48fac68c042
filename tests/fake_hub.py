"""A hub on this machine: as much of its interface as the real client asks for when it sends files."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub.constants
import pytest


@dataclass
class FakeHub:
    """What the hub was told.

    Attributes:
        files: of each repository, by path.
        private: of each repository, whether it was made so.
        role: of whoever asks; "" for one whose token is not valid.
        forbidden: whether nobody may make or write anything.
    """

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, Any] = field(default_factory=dict)
    role: str = "write"
    forbidden: bool = False


@contextmanager
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the client of this process talks to, logged in as "me"."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        if self.path == "/api/whoami-v2":
            if not self.hub.role:
                return self._say({"error": "Invalid username or password."}, 401)
            token = {"displayName": "test", "role": self.hub.role}
            return self._say({"name": "me", "auth": {"accessToken": token}})
        parts = urlsplit(self.path).path.split("/")  # /api/models/OWNER/NAME/tree/REVISION
        if parts[5:6] == ["tree"]:
            files = self.hub.files["/".join(parts[3:5])].items()
            return self._say([{"type": "file", "path": path, "size": len(held), "oid": "0"} for path, held in files])
        return self._say({}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/api/validate-yaml":
            return self._say({"errors": [], "warnings": []})
        if self.hub.forbidden:
            return self._say({"error": "You don't have the rights"}, 403)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.hub.files.setdefault(name, {})
            self.hub.private.setdefault(name, asked.get("visibility", asked.get("private")))
            return self._say({"url": f"{self.hub.url}/{name}", "name": name})
        parts = self.path.split("/")  # /api/models/OWNER/NAME/WHAT/REVISION
        name = "/".join(parts[3:5])
        if parts[5] == "preupload":
            files = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(body)["files"]]
            return self._say({"files": [{**each, "shouldIgnore": False} for each in files]})
        if parts[5] == "commit":
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.hub.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = {"commitOid": "0" * 40, "commitUrl": f"{self.hub.url}/{name}/commit/{'0' * 40}"}
            return self._say({**commit, "success": True, "hookOutput": ""})
        return self._say({}, 404)

    def _say(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
