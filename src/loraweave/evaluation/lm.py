"""A model that is already in memory, adapted or not, as lm-eval wants to see one.

Prompts and answers become tokens as in training (`data.border`). lm-eval's own way differs in three places: it loses
what a token that spans prompt and answer holds of the answer, it leaves an end token behind a prompt whose tokenizer
adds one, and it asks the first prompt of a batch alone whether it has a start already.
"""

from collections.abc import Callable
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraweave.data.border import context_ids, split_ids
from loraweave.data.notices import longest_answer
from loraweave.evaluation.shared_prompt import batches, score_answers
from loraweave.tasks.sandbox import sandbox_chat_templates
from loraweave.tasks.template import apply_template
from loraweave.tasks.turn import Turn


class ProgressHook(CacheHook):
    """lm-eval hands every answer to its cache's hook as it comes; here it is only counted."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self.report = report
        self.done = 0

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self.done += 1
        self.report(self.done)


class LoadedModel(HFLM):
    """lm-eval's Hugging Face model around a loaded one, without its bars, counting what had to be cut.

    `truncated` is the number of requests since the start whose prompt was longer than the model can read, so that
    lm-eval dropped its beginning. `turn` is what stands around the answers: set for chats.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        sandbox_chat_templates()
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
        self.truncated = 0
        self.turn: Turn | None = None

    @property
    def max_gen_toks(self) -> int:
        """lm-eval's 256 where the task does not say, but never more than half of what a small model can read."""
        return longest_answer(self.max_length)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """As in training: lm-eval drops the system message where a template refuses it."""
        return apply_template(self.tokenizer, [dict(message) for message in chat_history], add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        if add_special_tokens is not None:
            return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))
        return context_ids(string, self.tokenizer)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts to continue, as long as they can be: (batch, tokens) ids padded on the left, and 1 where one is."""
        rows = [context_ids(string, self.tokenizer)[-(left_truncate_len or 0) :] for string in strings]
        longest = max(map(len, rows))
        ids = [[self.tokenizer.pad_token_id] * (longest - len(row)) + row for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids), torch.tensor(mask)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        pairs = [(prompt, answer) for prompt, answer in (request.args for request in requests)]
        return self._loglikelihood_tokens([(pair, *split_ids(*pair, self.tokenizer)) for pair in pairs])

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = True,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        too_long = sum(len(prompt) + len(answer) > self.max_length + 1 for _, prompt, answer in requests)
        self.truncated += too_long
        by_prompt: dict[tuple[int, ...], list[int]] = {}
        for index, (_, prompt, _) in enumerate(requests):
            by_prompt.setdefault(tuple(prompt), []).append(index)
        if len(by_prompt) < len(requests) and not too_long:
            scored = self._score_by_prompt(requests, by_prompt)
            if scored is not None:
                return scored
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def _score_by_prompt(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], by_prompt: dict[tuple[int, ...], list[int]]
    ) -> list[tuple[float, bool]] | None:
        """Each prompt read once for all its answers; None when the model cannot do that."""
        groups = sorted(by_prompt.items(), key=lambda item: -len(item[0]))
        scored: dict[int, tuple[float, bool]] = {}
        for batch in batches([len(indices) for _, indices in groups], self.batch_size):
            picked = [groups[number] for number in batch]
            answers = [[requests[index][2] for index in indices] for _, indices in picked]
            found = score_answers(self.model, [list(prompt) for prompt, _ in picked], answers)
            if found is None:
                return None
            for (_, indices), results in zip(picked, found, strict=True):
                for index, result in zip(indices, results, strict=True):
                    scored[index] = result
                    self.cache_hook.add_partial("loglikelihood", requests[index][0], result)
        return [scored[index] for index in range(len(requests))]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        for request in requests:
            prompt, settings = request.args
            room = self.max_length - int(settings.get("max_gen_toks", self.max_gen_toks))
            self.truncated += len(self.tok_encode(prompt)) > room
        written = super().generate_until(requests, disable_tqdm=True)
        return [self.turn.answer(text) for text in written] if self.turn else written

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **how: Any) -> torch.Tensor:
        """lm-eval's, but each row stops at its own end of text or of turn, however long the others go on."""
        if self.turn is not None:
            stop = [*stop, self.turn.words]
        how.setdefault("eos_token_id", ends_of(self.model, self.tokenizer, self.turn))
        return super()._model_generate(context, max_length, [text for text in stop if text], **how)


def ends_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, turn: Turn | None) -> list[int]:
    """Ids at which what a model writes is over: the end of the text, for the tokenizer or for the model's own
    generation configuration, and that of the turn."""
    own = getattr(model.generation_config, "eos_token_id", None)
    own = own if isinstance(own, list) else [own]
    found = {tokenizer.eos_token_id, *own, None if turn is None else turn.token}
    return sorted(found - {None})
