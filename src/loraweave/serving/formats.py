"""Answers in OpenAI's shapes: a whole one, or the events of a stream."""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

Usage = dict[str, int]
"""`prompt_tokens`, `completion_tokens` and `total_tokens`."""


def usage_of(prompt: int, written: int) -> Usage:
    """The usage of a request whose prompt and answer have so many tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


class TextFormat:
    """Of /v1/completions, for one request.

    Args:
        model: as it was asked for.

    Attributes:
        model: who answers.
        counted: whether a stream ends with its usage, so that each event before says that it has none yet.
    """

    prefix, kind, event_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str) -> None:
        self.model = model
        self.counted = False
        self._about = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time())}

    def whole(self, text: str, finish_reason: str | None, usage: Usage) -> dict[str, Any]:
        """A whole answer."""
        choice = {"index": 0, **self._said(text), "logprobs": None, "finish_reason": finish_reason}
        return {**self._about, "model": self.model, "object": self.kind, "choices": [choice], "usage": usage}

    def opening(self) -> Iterator[str]:
        """What a stream begins with."""
        yield from ()

    def piece(self, text: str, finish_reason: str | None) -> str:
        """A part of a stream."""
        return self._event([{"index": 0, **self._more(text), "logprobs": None, "finish_reason": finish_reason}])

    def usage(self, usage: Usage) -> str:
        """A stream's last word, where it is wanted."""
        return self._event([], usage=usage)

    def _said(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _more(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        more = {"usage": None, **more} if self.counted else more
        return event({**self._about, "model": self.model, "object": self.event_kind, "choices": choices, **more})


class ChatFormat(TextFormat):
    """Of /v1/chat/completions."""

    prefix, kind, event_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self) -> Iterator[str]:
        """Who speaks."""
        delta = {"role": "assistant", "content": ""}
        yield self._event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def _said(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _more(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}


def event(content: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
