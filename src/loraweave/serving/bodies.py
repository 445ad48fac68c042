"""What a request's body may hold: the fields that change an answer are followed or refused, never passed over."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraweave.errors import nearest
from loraweave.serving.refusals import RefusalError

MOST_STOPS = 16

_IGNORED = set(
    "user metadata store service_tier safety_identifier parallel_tool_calls prompt_cache_key prompt_cache_retention "
    "prompt_cache_options".split()
)
"""Fields that say nothing about the answer."""
_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
}
"""Fields of OpenAI's that are not followed here, and the values with which they ask for nothing."""


class StreamOptions(BaseModel):
    """How an answer is streamed.

    Attributes:
        include_usage: its last event says how many tokens there were.
        include_obfuscation: OpenAI's padding of events, which says nothing about the answer; there is none here.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Body(BaseModel):
    """What requests of both kinds have.

    Attributes:
        temperature: 0 takes the likeliest token; without, 0, or 1 where `top_p` is given.
        seed: the same seed gives the same answer; without, another one each time.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str = Field(min_length=1, max_length=500)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        """The texts before which the answer ends."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def longest(self) -> tuple[str, int | None]:
        """The field that says the most tokens of the answer, and what it says."""
        return "max_tokens", self.max_tokens


class ChatBody(Body):
    """What /v1/chat/completions takes."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def longest(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is None:
            return super().longest
        return "max_completion_tokens", self.max_completion_tokens


class TextBody(Body):
    """What /v1/completions takes: one prompt, as text or as tokens."""

    prompt: str | list[str] | list[int] | list[list[int]]


AnyBody = TypeVar("AnyBody", bound=Body)


def read_body(kind: type[AnyBody], body: Mapping[str, Any]) -> AnyBody:
    """A body, found to be possible.

    Raises:
        RefusalError: a field is unknown, unfit or not supported; it is named.
    """
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise RefusalError(400, "the body is no text in UTF-8, or too deep") from None
    left = {}
    for name, value in body.items():
        if value is None or name in _IGNORED:
            continue
        if name in _NOTHING:
            if not any(value == no and isinstance(value, bool) == isinstance(no, bool) for no in _NOTHING[name]):
                values = " or ".join(repr(nothing) for nothing in _NOTHING[name])
                raise RefusalError(400, f"{name} is not supported{f' but as {values}' if values else ''}", name)
            continue
        left[name] = value
    try:
        read = kind.model_validate(left)
    except ValidationError as error:
        raise _refusal(error, kind) from None
    if len(read.stops) > MOST_STOPS or any(not 0 < len(stop) <= 1000 for stop in read.stops):
        raise RefusalError(400, f"stop takes up to {MOST_STOPS} texts of 1 to 1,000 letters", "stop")
    if read.stream_options is not None and not read.stream:
        raise RefusalError(400, "stream_options belongs to stream: true", "stream_options")
    name, longest = read.longest
    if read.max_tokens not in (None, longest):
        raise RefusalError(400, f"max_tokens is {read.max_tokens}, and {name} {longest}: say one of them", "max_tokens")
    return read


def _refusal(error: ValidationError, kind: type[Body]) -> RefusalError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden" and name is not None:
        fields = StreamOptions.model_fields if name == "stream_options" else kind.model_fields
        unknown = str(first["loc"][-1])[:80]
        inside = " in stream_options" if name == "stream_options" else ""
        return RefusalError(400, f"the field {unknown!r} is unknown{inside}{nearest(unknown, fields)}", name[:80])
    if first["type"] == "missing":
        return RefusalError(400, f"the field {name!r} is missing", name)
    says = {"model": "a text of 1 to 500 letters", "prompt": "a text, or a list with one, or a list of token ids"}
    if name in says:
        return RefusalError(400, f"{name} must be {says[name]}", name)
    return RefusalError(400, f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg']}", name)
