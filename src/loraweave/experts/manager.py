"""The experts of a library on their base: routed to, switched between, or answering in one batch."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraweave import bases
from loraweave.bases import Base, BaseSpec, check_fingerprint, load_base
from loraweave.data.border import context_ids
from loraweave.errors import Notice, UserError
from loraweave.evaluation.lm import cut_to_fit, ends_of
from loraweave.evaluation.predict import are_chats
from loraweave.experts.fitting import Fitting, Pairs
from loraweave.experts.library import ExpertLibrary
from loraweave.experts.manifest import AUTO, BASE, Expert
from loraweave.experts.mixed import MixedBatches
from loraweave.experts.routing import THRESHOLD, Embedding, Route, Router
from loraweave.experts.switching import Switcher
from loraweave.quiet import quiet_libraries
from loraweave.runs.folder import naming_base
from loraweave.tasks.examples import Prompt
from loraweave.tasks.template import apply_template
from loraweave.tasks.turn import turn_of


class ExpertManager:
    """A library's experts on its base.

        manager = loraweave.ExpertManager("library", embed=default_embedding())
        manager.route("Is the sky blue?")                     # whose request that is, with score and margin
        with manager.using("boolq") as model: ...             # merged, at the base's cost; exactly taken back later
        manager.generate(["…", "…"], ["boolq", "summaries"])  # one batch, nothing merged

    Args:
        library: a library, or its folder.
        base: model and tokenizer, if already loaded; or where the base is now, a name or folder; the library's own when
            None.
        embed: texts to vectors (n, d), for routing by description; see `routing.default_embedding`.
        threshold: the cosine below which the base answers.
        memory: bytes for merged weights beside those in use, as of `Switcher`.
        device: of a base that is loaded here: "cpu", "cuda" and so on; a GPU where there is one when None.
        dtype: of its weights, as of `bases.load_base`.
        trust_code: run code that comes with it.

    Attributes:
        library: opened.
        model, tokenizer: of the base.
        switcher: that merges.

    Raises:
        UserError: no library; a base that cannot be loaded, or another one than the experts were trained on.
    """

    def __init__(
        self,
        library: ExpertLibrary | str | Path,
        base: Base | str | None = None,
        *,
        embed: Embedding | None = None,
        threshold: float = THRESHOLD,
        memory: int = 0,
        device: str | None = None,
        dtype: str = "auto",
        trust_code: bool = False,
    ) -> None:
        self.library = library if isinstance(library, ExpertLibrary) else ExpertLibrary(library)
        record = self.library.base
        if base is None or isinstance(base, str):
            with quiet_libraries(), naming_base(self.library.folder, base):
                model, tokenizer = load_base(base or BaseSpec.of_record(record), dtype, trust_code=trust_code)
            base = model.to(device or bases.device()).eval(), tokenizer
        self.model: PreTrainedModel = base[0]
        self.tokenizer: PreTrainedTokenizerBase = base[1]
        bases.fill_padding(self.tokenizer, self.library.folder)
        if "fingerprint" in record:
            check_fingerprint(self.model, record["fingerprint"], str(self.library.folder))
        self._merged: dict[str, Expert] = {}
        self.switcher = Switcher(self.model, lambda name: self._pairs(name, self._merged), memory)
        self._fitting = Fitting.of(self.model)
        self._embed, self._threshold = embed, threshold
        self._lock = RLock()
        self._mixed: MixedBatches | None = None
        self._beside: dict[str, Expert] = {}
        self._known: dict[str, Expert] = {}
        self.router = Router((), embed, threshold)
        self.refresh()

    @property
    def experts(self) -> list[str]:
        """The names of the experts, as of the last `refresh`."""
        return list(self._known)

    def refresh(self) -> None:
        """Take over what has changed in the library: experts that came, went or were replaced.

        Raises:
            UserError: the library cannot be read, two experts have the same prefix, or this is a block of `using` with
                an expert that is no more; all is as it was then.
        """
        with self._lock:
            now = self.library.experts()
            router = self.router if now == self._known else Router(now.values(), self._embed, self._threshold)
            merged, beside = (
                [name for name, read in known.items() if not read.is_still(now.get(name))]
                for known in (self._merged, self._beside)
            )
            self.switcher.forget(merged)
            if self._mixed is not None:
                self._mixed.remove(beside)
            for name in merged:
                del self._merged[name]
            for name in beside:
                del self._beside[name]
            self._known, self.router = now, router

    def route(self, instruction: Prompt) -> Route:
        """Whose request that is.

        Args:
            instruction: a text, or the messages of a chat.
        """
        return self.router.route(instruction)

    @contextmanager
    def using(self, name: str | None) -> Iterator[PreTrainedModel]:
        """The base with an expert merged, for this thread alone while the block runs.

        Args:
            name: of the expert; None, or "base", for the base as it is.

        Raises:
            UserError: as of `Switcher.switch`.
        """
        with self._lock, self.switcher.using(None if name in (None, BASE) else name) as model, self._nobody_beside():
            yield model

    def generate(
        self, prompts: Sequence[Prompt], experts: Sequence[str | None] | str = AUTO, *, max_new_tokens: int = 128
    ) -> list[str]:
        """Answers to prompts of any experts, in one batch, greedily, each up to the end of its turn.

        Args:
            prompts: texts to go on from, or chats.
            experts: for each prompt an expert's name, "base" or None for the base, or "auto" for whomever the router
                finds; or one of these for all.
            max_new_tokens: at most, and no more than the model reads together with the longest prompt; of prompts that
                leave no room the beginning is cut, which is a `Notice`.

        Raises:
            UserError: an unknown expert, as many names as there are not prompts, texts and chats at once, an expert
                that cannot be read, or one that a block of `using` in this thread has.
        """
        if not prompts:
            return []
        names = [experts] * len(prompts) if isinstance(experts, str) else list(experts)
        if len(names) != len(prompts):
            raise UserError(f"{len(prompts)} prompts and {len(names)} experts: name one for each, or one for all")
        routes = iter(self.router.route_all([p for p, name in zip(prompts, names, strict=True) if name == AUTO]))
        tasks = [(next(routes).expert if name == AUTO else name) or BASE for name in names]
        with self._lock, quiet_libraries(), torch.no_grad():
            self._stand_beside(tasks)
            self.switcher.switch(None)
            return self._generated(prompts, tasks, max_new_tokens)

    def close(self) -> None:
        """Leave the base as it was loaded."""
        with self._lock:
            self.switcher.close()
            if self._mixed is not None:
                self._mixed.close()
                self._mixed, self._beside = None, {}

    def _pairs(self, name: str, known: dict[str, Expert]) -> Pairs:
        """An expert's update; `known` notes what it was right before it was read, for `refresh`."""
        expert = self.library.expert(name)
        pairs = self._fitting.pairs(self.library.load(name))
        known[name] = expert
        return pairs

    def _nobody_beside(self) -> AbstractContextManager[None]:
        return self._mixed.call_context.use(BASE) if self._mixed is not None else nullcontext()

    def _stand_beside(self, tasks: Sequence[str]) -> None:
        """Let those be ready who are asked."""
        wanted = [name for name in dict.fromkeys(tasks) if name != BASE and name not in self._beside]
        found: dict[str, Expert] = {}
        pairs = {name: self._pairs(name, found) for name in wanted}
        if self._mixed is None:
            self._mixed = MixedBatches(self.model)
        self._mixed.put(pairs)
        self._beside |= found

    def _generated(self, prompts: Sequence[Prompt], tasks: list[str], max_new_tokens: int) -> list[str]:
        turn = turn_of(self.tokenizer) if are_chats(prompts) else None
        texts = [p if isinstance(p, str) else apply_template(self.tokenizer, p, True) for p in prompts]
        rows, max_new_tokens = self._cut([context_ids(text, self.tokenizer) for text in texts], max_new_tokens)
        longest, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=self.model.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.model.device)
        ends = ends_of(self.model, self.tokenizer, turn)
        how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False, "eos_token_id": ends or None}
        if turn is not None and turn.words:
            how |= {"stop_strings": [turn.words], "tokenizer": self.tokenizer}
        written = self.model.generate(ids, attention_mask=mask, pad_token_id=pad, tasks=tasks, **how)[:, longest:]
        answers = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [turn.answer(answer) if turn is not None else answer for answer in answers]

    def _cut(self, rows: list[list[int]], most: int) -> tuple[list[list[int]], int]:
        """The ids of prompts and the most tokens of an answer, as `cut_to_fit` has them."""
        rows, most, cut = cut_to_fit(self.model, self.tokenizer, rows, most)
        if cut:
            warnings.warn(
                f"{cut:,} prompts are longer than the model reads and lost their beginning", Notice, stacklevel=4
            )
        return rows, most
