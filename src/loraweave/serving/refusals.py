"""What goes wrong, as OpenAI's clients expect to be told: a status, and one line in their JSON shape."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from loraweave.serving.engine import FailedError, FullError

AGAIN = "5"
"""Seconds after which a client that found no place may ask again."""
CROWDED = "too_many_connections"
_KINDS = {400: "invalid_request_error", 401: "authentication_error", 404: "invalid_request_error"}
_CODES = {413: "request_too_large", 429: "rate_limit_exceeded", 408: "request_timeout"}


class RefusalError(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        message: one line: what, and what would be right.
        param: the field that is meant.
        code: one word for programs.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code or _CODES.get(status)

    @property
    def body(self) -> dict[str, Any]:
        """In OpenAI's shape."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """What a client is told beside it."""
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        if self.code == CROWDED:
            return {"retry-after": AGAIN, "connection": "close"}
        return {"retry-after": AGAIN} if self.status in (429, 503) else {}


def refused(error: RefusalError) -> JSONResponse:
    """A refusal as a response."""
    return JSONResponse(error.body, error.status, error.headers)


def told(error: Exception) -> RefusalError:
    """Whatever stopped a request, as a refusal."""
    if isinstance(error, RefusalError):
        return error
    if isinstance(error, FullError):
        return RefusalError(429, f"{error}: come again in {AGAIN} seconds")
    if isinstance(error, FailedError):
        return RefusalError(503, str(error))
    return RefusalError(500, "a fault of the server; its log says more", code="internal_error")


def answer_errors(app: FastAPI) -> None:
    """Let every error of an app be told in OpenAI's shape."""

    @app.exception_handler(RequestValidationError)
    async def not_json(request: Request, error: RequestValidationError) -> JSONResponse:
        return refused(RefusalError(400, "the body must be a JSON object, sent as content-type application/json"))

    @app.exception_handler(HTTPException)
    async def of_the_framework(request: Request, error: HTTPException) -> JSONResponse:
        line = {404: f"there is no {request.url.path} here", 405: f"{request.method} is not for {request.url.path}"}
        answer = refused(RefusalError(error.status_code, line.get(error.status_code, str(error.detail))))
        answer.headers.update(error.headers or {})
        return answer

    for kind in (RefusalError, FullError, FailedError, Exception):  # the last is raised on, for the gate to log

        @app.exception_handler(kind)
        async def of_ours(request: Request, error: Exception) -> JSONResponse:
            return refused(told(error))
