"""How the next token of each request in a batch is drawn: by its own temperature, top_p and seed, alone or not, and by
what the base's generation configuration has beside these.

Transformers' continuous batching has one generation configuration for all. So it is told to take the largest score, and
the scores of requests that want a sample get Gumbel noise before: the largest of `score / temperature + noise` is an
exact draw from the softmax. The noise follows from the request's seed and the token's place alone.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationMixin, LogitsProcessorList, PreTrainedModel
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor
from transformers.generation.continuous_batching.requests import FutureRequestState

from loraweave.foreign import private
from loraweave.serving.voices import Voice

GREEDY_BELOW = 1e-5
"""Temperatures below this one take the likeliest token."""
_PRIME = 1_000_003


@dataclass(frozen=True)
class Sampling:
    """How one request's tokens are drawn.

    Attributes:
        temperature: what scores are divided by; 0 takes the likeliest token.
        top_p: only the likeliest tokens that have this much of the probability together.
        seed: of the noise.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True)
class Asked:
    """One request, as the batch has it.

    Attributes:
        prompt: its tokens.
        voice: who answers.
        longest: the most tokens that are written.
        ends: tokens that end the answer.
        sampling: how tokens are drawn.
        rules: change scores before that by the tokens so far, as of `rules_of`.
        shown: where the scores (vocabulary,) of each token are put as the model gives them, for who wants to see them.
    """

    prompt: tuple[int, ...]
    voice: Voice
    longest: int
    ends: tuple[int, ...]
    sampling: Sampling = Sampling()
    rules: LogitsProcessorList | None = None
    shown: list[Tensor] | None = None


class OwnSampling(ContinuousBatchingLogitsProcessor):
    """Scores whose largest is each request's next token. A request brings its `Asked` under the name `asked`."""

    supported_kwargs: dict[str, type] = {"asked": Asked}  # noqa: RUF012 (Transformers reads class attributes)
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._drawn: list[tuple[int, Sampling, int]] = []
        self._shown: list[tuple[int, list[Tensor]]] = []
        self._ruled: list[tuple[int, LogitsProcessorList, list[int]]] = []

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Nothing of it goes through tensors."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> Tensor:
        """Note which rows of the scores to come are drawn, and how; the tensor for them is not used."""
        self._drawn, self._shown, self._ruled = [], [], []
        for row, request in enumerate(requests_with_new_token):
            asked: Asked = request.state.logit_processor_kwargs["asked"]
            if not asked.sampling.greedy:
                self._drawn.append((row, asked.sampling, request.state.position_offset))
            if asked.shown is not None:
                self._shown.append((row, asked.shown))
            if asked.rules:
                self._ruled.append((row, asked.rules, [*request.state.initial_tokens, *request.state.generated_tokens]))
        return torch.zeros(len(requests_with_new_token), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """(rows, vocabulary) scores -> those from which the largest is taken."""
        for row, shown in self._shown:
            shown.append(scores[row].float().cpu())
        scores = scores.clone() if self._ruled else scores
        for row, rules, tokens in self._ruled:
            scores[row] = rules(torch.tensor([tokens], device=scores.device), scores[row : row + 1])[0]
        if not self._drawn:
            return scores
        rows = torch.tensor([row for row, _, _ in self._drawn], device=scores.device)
        drawn = scores[rows] / scores.new_tensor([s.temperature for _, s, _ in self._drawn])[:, None]
        if any(sampling.top_p < 1 for _, sampling, _ in self._drawn):
            drawn = likeliest(drawn, scores.new_tensor([s.top_p for _, s, _ in self._drawn]))
        for own, (_, sampling, place) in zip(drawn, self._drawn, strict=True):
            own += gumbel(own, sampling.seed, place)
        return scores.index_copy(0, rows, drawn)


def rules_of(base: PreTrainedModel, asked: Asked) -> LogitsProcessorList:
    """What a base's own generation configuration does to the scores of a next token, as its `generate` has it, by which
    evaluations write: a penalty on what was said before (Qwen 2.5's chat models), tokens that never come.

    Args:
        base: whose configuration it is; its sampling is not looked at.
        asked: the request that it is for.
    """
    for name in ("_prepare_special_tokens", "_get_logits_processor"):
        private(GenerationMixin, name, "serving a base by its generation configuration")
    how = copy.deepcopy(base.generation_config)
    size = len(asked.prompt)
    how.do_sample, how.eos_token_id, how.max_length = False, list(asked.ends) or None, size + asked.longest
    base._prepare_special_tokens(how, True, base.device)
    return base._get_logits_processor(how, size, device=base.device)


def likeliest(scores: Tensor, top_p: Tensor) -> Tensor:
    """Scores (rows, vocabulary) with −∞ for all but the smallest set of tokens that has `top_p` (rows,) of the
    probability; the likeliest token always stays."""
    ordered, order = scores.sort(descending=True, dim=-1)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    ordered = ordered.masked_fill(before >= top_p[:, None], float("-inf"))
    ordered[:, 0] = scores.max(-1).values
    return torch.empty_like(scores).scatter_(-1, order, ordered)


def gumbel(like: Tensor, seed: int, place: int) -> Tensor:
    """Gumbel noise of the shape of `like`, which follows from a seed and a place alone."""
    generator = torch.Generator(like.device).manual_seed((seed * _PRIME + place) % 2**63)
    noise = torch.empty_like(like).exponential_(generator=generator)
    return -noise.clamp_min(torch.finfo(like.dtype).tiny).log()
