"""A model that is already in memory, adapted or not, as lm-eval wants to see one.

Prompts and answers become tokens as in training (`data.border`). lm-eval's own way differs in three places: it loses
what a token that spans prompt and answer holds of the answer, it leaves an end token behind a prompt whose tokenizer
adds one, and it asks the first prompt of a batch alone whether it has a start already.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraweave.data.border import context_ids, opened_ids, split_ids
from loraweave.data.notices import longest_answer
from loraweave.evaluation.scored_tokens import batches, score_rows
from loraweave.evaluation.shared_prompt import score_answers
from loraweave.quiet import quiet_libraries
from loraweave.tasks.chat import asked
from loraweave.tasks.sandbox import sandbox_chat_templates
from loraweave.tasks.thoughts import end_of_thought
from loraweave.tasks.turn import Turn, turn_of

ROWS = 64
TOKENS = {"cpu": 2**13}
TOKENS_ELSEWHERE = 2**15
"""Read at once, at most, where nobody says: rows, and the tokens that they fill, on a CPU and on an accelerator."""

Request = tuple[tuple[str, str], list[int], list[int]]
"""Prompt and answer as texts, and the ids of each."""


def cut_to_fit(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], longest: int
) -> tuple[list[list[int]], int, int]:
    """Prompts and the most tokens of an answer, cut so that the model reads both; an answer has room for half of that
    at least.

    Args:
        model, tokenizer: as loaded.
        rows: the ids of each prompt, at least one.
        longest: tokens wanted for an answer.

    Returns:
        The ids without the beginnings that do not fit, the most tokens of an answer, and how many prompts were cut.
    """
    with quiet_libraries():
        reads = LoadedModel(model, tokenizer).max_length
    longest = min(longest, max(reads - max(map(len, rows)), reads // 2))
    room = reads - longest
    return [row[-room:] for row in rows], longest, sum(len(row) > room for row in rows)


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

    Args:
        model, tokenizer: as loaded.
        batch_size: rows per forward pass; when None `ROWS`, of `TOKENS` at most.

    `truncated` is the number of requests since the start whose prompt was longer than the model can read, so that
    lm-eval dropped its beginning. `turn` is what stands around the answers, and `thinks` whether a thought comes before
    them: `begin` sets them for a task.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int | None = None
    ) -> None:
        sandbox_chat_templates()
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size or ROWS, backend="causal")
        tokens = TOKENS.get(model.device.type, TOKENS_ELSEWHERE)
        self.most_tokens = tokens if batch_size is None else None
        self.shares_prompts = True  # until the model shows that it cannot
        self.truncated = 0
        self.turn: Turn | None = None
        self.thinks = False
        self._unopened: dict[str, str] = {}  # of a prompt that an evaluation goes on, what a server would be given

    def begin(self, chat: bool, thinks: bool = False) -> None:
        """Get ready for a task.

        Args:
            chat: its prompts go through the chat template.
            thinks: the model was taught to think before an answer. Otherwise it is given an empty thought, where the
                template writes such.
        """
        self.turn = turn_of(self.tokenizer) if chat else None
        end = end_of_thought(self.turn.opening) if self.turn is not None and thinks else None
        self.thinks, self.think_end_token = end is not None, end
        self._unopened.clear()

    @property
    def max_gen_toks(self) -> int:
        """lm-eval's 256 where the task does not say, but never more than half of what a small model can read."""
        return longest_answer(self.max_length)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """As in training, with what the template has between a prompt and any answer. lm-eval drops the system message
        where a template refuses it."""
        prompt, opening = asked(self.tokenizer, [dict(message) for message in chat_history], add_generation_prompt)
        if not opening or self.thinks:
            return prompt
        self._unopened[prompt + opening] = prompt
        return prompt + opening

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        if add_special_tokens is not None:
            return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))
        if string not in self._unopened:
            return context_ids(string, self.tokenizer)
        context, opened, _ = self._opened(string, "")
        return context + opened

    def _opened(self, string: str, answer: str) -> tuple[list[int], list[int], list[int]]:
        prompt = self._unopened[string]
        return opened_ids(prompt, string.removeprefix(prompt), answer, self.tokenizer)

    def _split(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        if prompt not in self._unopened:
            return split_ids(prompt, answer, self.tokenizer)
        context, opened, ids = self._opened(prompt, answer)
        return context + opened, ids

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts to continue, as long as they can be: (batch, tokens) ids padded on the left, and 1 where one is."""
        rows = [self.tok_encode(string)[-(left_truncate_len or 0) :] for string in strings]
        longest = max(map(len, rows))
        ids = [[self.tokenizer.pad_token_id] * (longest - len(row)) + row for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids), torch.tensor(mask)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        pairs = [(prompt, answer) for prompt, answer in (request.args for request in requests)]
        return self._loglikelihood_tokens([(pair, *self._split(*pair)) for pair in pairs])

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """The log-probability of each request's answer after its prompt, and whether it is what the model writes.

        As lm-eval's, except that a prompt with several answers is read once, and that what goes through the
        language-model head is what is scored. A prompt that is too long loses its beginning.
        """
        by_prompt: dict[tuple[int, ...], list[int]] = {}
        for index, (_, prompt, answer) in enumerate(requests):
            if not 0 < len(answer) <= self.max_length:
                raise ValueError(f"an answer of {len(answer)} tokens, and the model reads 1 to {self.max_length}")
            if len(prompt) + len(answer) <= self.max_length + 1:
                by_prompt.setdefault(tuple(prompt), []).append(index)
            else:
                self.truncated += 1
        shared = [(prompt, indices) for prompt, indices in by_prompt.items() if len(indices) > 1]
        scored: dict[int, tuple[float, bool]] = {}
        for batch in batches([len(prompt) for prompt, _ in shared], self.batch_size, self.most_tokens):
            if self.shares_prompts:
                self._score_by_prompt(requests, [shared[number] for number in batch], scored)
        self._score_row_by_row(requests, [index for index in range(len(requests)) if index not in scored], scored)
        return [scored[index] for index in range(len(requests))]

    def _score_by_prompt(
        self,
        requests: list[Request],
        prompts: list[tuple[tuple[int, ...], list[int]]],
        scored: dict[int, tuple[float, bool]],
    ) -> None:
        """Each prompt read once for all its answers; nothing is scored when the model cannot do that."""
        answers = [[requests[index][2] for index in indices] for _, indices in prompts]
        found = score_answers(self.model, [prompt for prompt, _ in prompts], answers, self.batch_size, self.most_tokens)
        self.shares_prompts = found is not None
        for (_, indices), results in zip(prompts, found or (), strict=found is not None):
            for index, result in zip(indices, results, strict=True):
                self._keep(requests, index, result, scored)

    def _score_row_by_row(
        self, requests: list[Request], indices: list[int], scored: dict[int, tuple[float, bool]]
    ) -> None:
        """Prompt and answer read together; requests that are alike up to the answer's last token read once."""
        by_row: dict[tuple[int, ...], list[int]] = {}
        for index in indices:
            _, prompt, answer = requests[index]
            by_row.setdefault(tuple((*prompt, *answer)[-(self.max_length + 1) : -1]), []).append(index)
        rows = list(by_row)
        for batch in batches([len(row) for row in rows], self.batch_size, self.most_tokens):
            asked = []
            for number in batch:
                end = len(rows[number])
                answers = [requests[index][2] for index in by_row[rows[number]]]
                asked.append([(end - len(a) + i, token) for a in answers for i, token in enumerate(a)])
            found = score_rows(self.model, [rows[number] for number in batch], asked)
            for number, scores in zip(batch, found, strict=True):
                each = iter(scores)
                for index in by_row[rows[number]]:
                    values, greedy = zip(*(next(each) for _ in requests[index][2]), strict=True)
                    self._keep(requests, index, (sum(values), all(greedy)), scored)

    def _keep(
        self, requests: list[Request], index: int, result: tuple[float, bool], scored: dict[int, tuple[float, bool]]
    ) -> None:
        scored[index] = result
        if requests[index][0] is not None:  # else a part of a longer text, which lm-eval puts together
            self.cache_hook.add_partial("loglikelihood", requests[index][0], result)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Of whole texts, as they are trained on: the start of a text is read and not scored. lm-eval encodes a text as
        a prompt, whose start it would score, and puts another before it."""
        windows: list[Any] = []
        of_text: list[int] = []
        for number, (text,) in enumerate(request.args for request in requests):
            start, ids = split_ids("", text, self.tokenizer)
            for window in get_rolling_token_windows(ids, start[-1], self.max_length, context_len=1):
                windows.append(((text,), *make_disjoint_window(window)))
                of_text.append(number)
        found = [0.0] * len(requests)
        parts = self._loglikelihood_tokens(windows)
        for number, (likelihood, _) in zip(of_text, parts, strict=True):
            found[number] += likelihood
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        lengths = []
        for request in requests:
            prompt, settings = request.args
            longest = int(normalize_gen_kwargs(settings, self.max_gen_toks)["max_gen_toks"])  # by any of its names
            size = len(self.tok_encode(prompt))
            self.truncated += size > self.max_length - longest
            lengths.append(min(size + longest, self.max_length))
        written = [""] * len(requests)
        for batch in batches(lengths, self.batch_size, self.most_tokens):
            texts = super().generate_until([requests[index] for index in batch], disable_tqdm=True)
            for index, text in zip(batch, texts, strict=True):
                written[index] = self.turn.answer(text) if self.turn else text
        return written

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **how: Any) -> torch.Tensor:
        """lm-eval's, but each row stops at its own end of text or of turn, however long the others go on."""
        if self.turn is not None:  # what ends an answer may well stand in a thought before it
            stop = [*(() if self.thinks else stop), self.turn.words]
        how.setdefault("eos_token_id", ends_of(self.model, self.tokenizer, self.turn))
        # A base's generation configuration may say how many tokens an answer has, and would be heard first.
        how.setdefault("max_new_tokens", max_length - context.shape[1])
        return super()._model_generate(context, max_length, [text for text in stop if text], **how)


def ends_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, turn: Turn | None) -> list[int]:
    """Ids at which what a model writes is over: the end of the text, for the tokenizer or for the model's own
    generation configuration, and that of the turn."""
    own = getattr(model.generation_config, "eos_token_id", None)
    own = own if isinstance(own, list) else [own]
    found = {tokenizer.eos_token_id, *own, None if turn is None else turn.token}
    return sorted(found - {None})
