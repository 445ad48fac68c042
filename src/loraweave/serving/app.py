"""The app: Transformers' server with our models and handlers in it, behind the gate."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp
from transformers import PreTrainedTokenizerBase
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import GenerationState

from loraweave.serving.catalog import Catalog
from loraweave.serving.engine import Engine
from loraweave.serving.gate import Gate
from loraweave.serving.handlers import ChatHandler, TextHandler
from loraweave.serving.keys import Keys
from loraweave.serving.limits import Limits
from loraweave.serving.metrics import CONTENT_TYPE, Metrics
from loraweave.serving.page import Page
from loraweave.serving.refusals import answer_errors

KEPT = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health")
"""What is kept of the paths that Transformers' server has: its others load models by name and unload them again for
whoever asks, or are for models that see and hear."""


class _State(GenerationState):
    """What Transformers' /health asks."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(continuous_batching=True)
        self._engine = engine

    def is_cb_alive(self) -> bool:
        """Whether requests are answered."""
        return self._engine.alive


def build_app(
    engine: Engine,
    catalog: Catalog,
    tokenizer: PreTrainedTokenizerBase,
    limits: Limits,
    keys: Keys,
    host_names: frozenset[str] = frozenset(),
    log_words: bool = False,
    connections: Callable[[], int] = lambda: 0,
) -> ASGIApp:
    """The app for a server of ASGI.

    Args:
        engine: starts and ends with the app.
        catalog: the models by name.
        tokenizer: the base's.
        limits: of requests.
        keys: who may ask.
        host_names, connections: see `Gate`.
        log_words: whether prompts and answers are logged.
    """
    unused: Any = None
    how = (engine, catalog, tokenizer, log_words)
    chat: Any = ChatHandler(*how)
    text: Any = TextHandler(*how)
    app = build_server(catalog, chat, text, unused, unused, unused, _State(engine))
    app.router.routes = [route for route in app.router.routes if getattr(route, "path", None) in KEPT]
    app.user_middleware.clear()  # the gate gives requests their ids
    answer_errors(app)
    metrics = Metrics(engine)
    longest = max(1, min(limits.answer, engine.room.context // 2))
    _add_pages(app, engine, catalog, metrics, Page(catalog.name, bool(tokenizer.chat_template), longest))

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await engine.stop()

    app.router.lifespan_context = running
    return Gate(app, limits, keys, metrics.count, host_names, connections)


def _add_pages(app: FastAPI, engine: Engine, catalog: Catalog, metrics: Metrics, page: Page) -> None:
    @app.get("/")
    def try_it() -> Response:
        return HTMLResponse(page.text, headers=page.headers)

    @app.get("/v1/models/{name:path}")
    def model(name: str) -> Response:
        return JSONResponse(catalog.model(name))

    @app.get("/ready")
    def ready() -> Response:
        return JSONResponse({"status": "ok"} if engine.alive else {"status": "unready"}, 200 if engine.alive else 503)

    @app.get("/metrics")
    def counted() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)
