"""What the server does, counted for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from loraweave.serving.engine import Engine
from loraweave.serving.records import Record

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server; `model` is a name of /v1/models, or empty where none was found.

    Args:
        engine: whose queue is shown.
    """

    def __init__(self, engine: Engine) -> None:
        self._registry = all_of_it = CollectorRegistry()
        model = ["model"]
        self._requests = Counter("loraweave_requests", "Answered or refused.", ["model", "status"], registry=all_of_it)
        self._prompt = Counter("loraweave_prompt_tokens", "Tokens that were read.", model, registry=all_of_it)
        self._written = Counter("loraweave_completion_tokens", "Tokens that were written.", model, registry=all_of_it)

        def seconds(name: str, until: str) -> Histogram:
            what = f"From a request to {until}."
            return Histogram(f"loraweave_{name}_seconds", what, model, registry=all_of_it, buckets=_SECONDS)

        self._queued = seconds("queue", "its place in the batch")
        self._first = seconds("first_token", "its first token")
        self._whole = seconds("request", "the end of its answer")
        running = Gauge("loraweave_requests_running", "In the batch.", registry=all_of_it)
        running.set_function(lambda: engine.running)
        waiting = Gauge("loraweave_requests_waiting", "Without a place in the batch.", registry=all_of_it)
        waiting.set_function(lambda: engine.waiting)
        taken = Gauge("loraweave_cache_taken_ratio", "Share of the cache that is promised.", registry=all_of_it)
        taken.set_function(lambda: engine.taken)

    def count(self, record: Record) -> None:
        """A request that has ended."""
        self._requests.labels(record.model, str(record.status)).inc()
        if not record.model:
            return
        self._prompt.labels(record.model).inc(0 if record.first is None else record.prompt_tokens)
        self._written.labels(record.model).inc(record.completion_tokens)
        if record.queued is not None:
            self._queued.labels(record.model).observe(record.queued)
        if record.first is not None:
            self._first.labels(record.model).observe(record.first)
            self._whole.labels(record.model).observe(record.seconds)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)
