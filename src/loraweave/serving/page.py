"""The page at `/`: a person picks a task and tries it beside the base. One file, nothing from elsewhere."""

import base64
import hashlib
import re

from loraweave.pages.layout import render


class Page:
    """The page of one server.

    Args:
        name: of what is served.
        chat: whether a prompt is a message of a chat.
        longest: tokens of an answer, to begin with.

    Attributes:
        text: HTML.
        headers: with which it is sent: it runs its own script and no other, and asks this server and no other.
    """

    def __init__(self, name: str, chat: bool, longest: int) -> None:
        content = {"title": name, "subtitle": "Tasks of one model, and the base beside them.", "chat": chat}
        self.text = render("loraweave.serving", "page.html", {**content, "longest": longest})
        (script,) = re.findall(r"<script>(.*?)</script>", self.text, flags=re.DOTALL)
        hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        rules = f"default-src 'none'; script-src 'sha256-{hashed}'; style-src 'unsafe-inline'; connect-src 'self'"
        self.headers = {
            "content-security-policy": f"{rules}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
