"""Transformers' continuous batching, with a voice for every request in the batch.

Its batch is one row of tokens, those of all requests laid end to end; here each of them is told whose it is, right
before the model is called. Blocks of the cache are never shared between requests: the same words have other keys and
values under another adapter.
"""

import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.continuous_api import (
    BackgroundThreadStatus,
    ContinuousBatchingManager,
    OutputRouter,
)
from transformers.generation.continuous_batching.requests import GenerationOutput
from transformers.generation.logits_process import LogitsProcessorList

from loraweave.foreign import private
from loraweave.serving.sampling import Asked, OwnSampling
from loraweave.serving.voices import AnySpeakers

log = logging.getLogger("loraweave.serving")

Deliver = Callable[[Sequence[GenerationOutput]], None]
"""Takes what requests have by now, each with all its tokens; called from the thread that generates."""


class _Outputs(OutputRouter):
    """Every output to one place."""

    def __init__(self, deliver: Deliver) -> None:
        super().__init__()
        self._deliver = deliver

    def deliver(self, output: GenerationOutput) -> None:
        self._deliver([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        self._deliver(outputs)


class VoicedBatches(ContinuousBatchingManager):
    """The manager of a model whose requests have voices. A batch that fails takes its requests with it, and no others.

    Args:
        speakers: the model.
        settings: of the batch and its cache.
        deliver: where outputs go.
        ended: called from the thread that generates when it ends, for whatever reason.
    """

    def __init__(
        self, speakers: AnySpeakers, settings: ContinuousBatchingConfig, deliver: Deliver, ended: Callable[[], None]
    ) -> None:
        private(ContinuousBatchingManager, "_generation_step", "telling each request's tokens who speaks for them")
        private(ContinuousBatchingManager, "_run_generation_loop", "telling requests that nobody answers any more")
        how = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        super().__init__(speakers.base, how, settings)
        self.speakers = speakers
        self.logit_processor = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([OwnSampling()]))
        self.logit_processor.tensors_required = 1
        self.output_router = _Outputs(deliver)
        self._ended = ended

    def ask(self, number: str, asked: Asked) -> bool:
        """Put a request into the batch under a number of its own; False where nothing is taken any more."""
        if self.background_thread_status.can_accept_new_requests() is not None:
            return False  # Transformers would log some of the prompt's tokens
        given = self.add_request(
            list(asked.prompt),
            request_id=number,
            max_new_tokens=asked.longest,
            streaming=True,
            eos_token_id=list(asked.ends),
            asked=asked,
        )
        return given is not None

    def end(self) -> None:
        """Stop at once and wait for it; what is in the batch fails. Unlike `stop` this frees no memory: the process, or
        whoever holds this, does."""
        self.background_thread_status.request_stop(
            BackgroundThreadStatus.HARD_STOP, self.distributed_helper.global_rank
        )
        self.join(perf_counter())

    def _run_generation_loop(self) -> None:
        try:
            super()._run_generation_loop()
        finally:
            self._ended()

    def _generation_step(self) -> None:
        processor: Any = self.batch_processor
        batch = processor.inputs_and_outputs.requests_in_batch
        voices = [(one.state.logit_processor_kwargs["asked"].voice, one.query_length) for one in batch]
        try:
            with self.speakers.speaking(voices):
                super()._generation_step()
        except Exception as error:  # of whatever kind: the requests of this batch fail, and the next batch is another
            log.exception("a batch of %d requests failed", len(batch))
            processor.handle_batch_error(error)
            processor.inputs_and_outputs.requests_in_batch = []
