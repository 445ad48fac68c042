"""One object for a trained adapter: its base, its tokenizer, its tasks; it answers, and it predicts as it is scored."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList, TextIteratorStreamer

from loraweave import bases
from loraweave.adapters.config import NAME as ADAPTER_CONFIG
from loraweave.bases import Base, BaseName, BaseSpec, check_fingerprint, fingerprint, load_base
from loraweave.data.border import context_ids
from loraweave.errors import Notice, UserError, nearest
from loraweave.evaluation.beside import untouched
from loraweave.evaluation.lm import LoadedModel, cut_to_fit, ends_of
from loraweave.evaluation.predict import Prediction, predict_rows, write_answers
from loraweave.files import file_hash
from loraweave.quiet import quiet_libraries, without_bars
from loraweave.runs.attaching import attach
from loraweave.runs.folder import (
    RunFolder,
    check_no_comparison,
    check_trained,
    naming_base,
    read_base_record,
    read_summary,
    recorded_base,
)
from loraweave.runs.loading import run_file_of, tasks_of
from loraweave.runs.origin import plain_tasks, say_other_tokenizer
from loraweave.tasks import Task, load_tasks
from loraweave.tasks.examples import Prompt
from loraweave.tasks.template import apply_template
from loraweave.tasks.turn import Turn, turn_of
from loraweave.tuner.context import task as told


class Loaded:
    """A model that is ready to be asked; made by `loraweave.load`.

    Args:
        found: the tasks, or what loads them; None where nothing says what they are.
        load_untouched: gives the model as it was before it was trained.
        folder: that it was loaded from.
        adapter: what of it PEFT loads; None for a model without an adapter.
        plain: as the attribute.

    Attributes:
        model: the base with the adapter on it, in evaluation mode.
        tokenizer: the base's.
        tasks: names of the tasks that it was trained on.
        needs_tasks: whether it answers by task, so that one must be named.
        plain: those of its tasks that were trained on plain prompts and not on chats, as far as that is known.
        folder: that it was loaded from.
        load_untouched: as given, called once at most.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Sequence[str],
        found: Sequence[Task] | Callable[[], Sequence[Task]] | None,
        load_untouched: Callable[[], PreTrainedModel],
        folder: Path,
        adapter: Path | None,
        plain: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.tasks = list(tasks)
        self._found = found
        self.load_untouched = cache(load_untouched)
        self.folder = folder
        self._adapter = adapter
        self.plain = list(plain)
        config: Any = model.active_peft_config if isinstance(model, PeftModel) else None
        self.needs_tasks = bool(getattr(config, "needs_tasks", False))

    def takes_chats(self, task: str | None) -> bool:
        """Whether what is asked goes through the chat template: not without one, nor where what speaks, one task or all
        of them, was trained on plain prompts."""
        trained = [task] if task is not None else self.tasks
        return bool(self.tokenizer.chat_template) and not (trained and set(trained) <= set(self.plain))

    def generate(
        self, task: str | None, prompts: Prompt | Sequence[Prompt], *, max_new_tokens: int | None = None
    ) -> Any:
        """What the model answers, greedily, up to the end of its turn.

        Args:
            task: whose adapter speaks; may be None where all have the same.
            prompts: a text to go on from or the messages of a chat; or a list of such.
            max_new_tokens: at most; as in an evaluation when None.

        Returns:
            A text for one prompt, a list of texts for a list of prompts.

        Raises:
            UserError: an unknown task, or none where one is needed; chats and a tokenizer without a template; no
                token asked for.
        """
        _check_length(max_new_tokens)
        one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], Mapping))
        asked: Any = [prompts] if one else list(prompts)
        with self._speaking(task) as lm:
            written = write_answers(lm, asked, max_new_tokens)
        return written[0] if one else written

    def stream(
        self, task: str | None, messages: Prompt, *, max_new_tokens: int = 512, adapter: bool = True
    ) -> Iterator[str]:
        """The answer to one prompt, piece by piece.

        Args:
            task: as of `generate`.
            messages: of a chat, or a text to go on from; what is longer than the model reads loses its beginning, which
                is a `Notice`.
            max_new_tokens: at most, and no more than the model reads together with the prompt.
            adapter: False for the base's own answer.

        Raises:
            UserError: as of `generate`; `adapter` is False, and the base is not to be had.
        """
        _check_length(max_new_tokens)
        with self._told(task):
            pass  # an unknown task is an error here, and not in a thread
        turn = None if isinstance(messages, str) else turn_of(self.tokenizer)
        text = messages if isinstance(messages, str) else apply_template(self.tokenizer, messages, True)
        return self._streamed(task, text, turn, max_new_tokens, adapter)

    def _streamed(
        self, task: str | None, text: str, turn: Turn | None, max_new_tokens: int, adapter: bool
    ) -> Iterator[str]:
        """What follows `text`, written by a thread. It stops where nobody reads on; what it fails of is raised here."""
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        over, failures = Event(), list[BaseException]()

        def is_over(ids: Tensor, scores: Any, **how: Any) -> Tensor:
            return torch.full((len(ids),), over.is_set(), device=ids.device)

        ids, longest = self._fitting(text, max_new_tokens)
        how: dict[str, Any] = {"max_new_tokens": longest, "do_sample": False, "streamer": streamer}
        how["stopping_criteria"] = StoppingCriteriaList([is_over])
        if turn is not None and turn.words:
            how |= {"stop_strings": [turn.words], "tokenizer": self.tokenizer}

        def run() -> None:
            try:
                speaking = nullcontext(self.model) if adapter else untouched(self.model, self.load_untouched)
                with quiet_libraries(), self._told(task), speaking as model:
                    given = torch.tensor([ids], device=model.device)
                    ends = ends_of(model, self.tokenizer, turn)
                    model.generate(given, attention_mask=torch.ones_like(given), eos_token_id=ends, **how)
            except BaseException as error:
                failures.append(error)
            finally:
                streamer.on_finalized_text("", stream_end=True)

        thread = Thread(target=run, name="answer", daemon=True)
        thread.start()
        try:
            yield from streamer if turn is None else _answer(streamer, turn)
        finally:
            over.set()
            thread.join()
        if failures:
            raise failures[0]

    def _fitting(self, text: str, longest: int) -> tuple[list[int], int]:
        """The ids of a prompt and the most tokens of its answer, as `cut_to_fit` has them."""
        (ids,), longest, cut = cut_to_fit(self.model, self.tokenizer, [context_ids(text, self.tokenizer)], longest)
        if cut:
            warnings.warn("what is asked is longer than the model reads and lost its beginning", Notice, stacklevel=3)
        return ids, longest

    def predict(self, task: str, rows: Sequence[Mapping[str, Any]], first: int = 1) -> list[Prediction]:
        """Answers to rows as an evaluation without solved examples finds them: labels ranked, or text with the task's
        stop rules and filter.

        Args:
            task: one of `tasks`.
            rows: each with the columns that the task's templates read, or `messages` or `prompt`.
            first: the first row's number, for messages.

        Returns:
            For each row `prediction`, and `scores`, the labels' log-probabilities in nats, where they were ranked.

        Raises:
            UserError: an unknown task; its file is not there; a row lacks what the task reads.
        """
        found = self.task(task)
        with self._speaking(task) as lm:
            return predict_rows(lm, found, rows, first)

    def task(self, name: str) -> Task:
        """The task of a name, read from its file when it is first asked for.

        Raises:
            UserError: an unknown name, or the tasks' files are not there.
        """
        if self._found is None:
            raise UserError(f"nothing says what the task {name!r} is: load the run, or name its file with tasks=[...]")
        if callable(self._found):
            self._found = self._found()
        by_name = {task.name: task for task in self._found}
        self._check(name, list(by_name))
        return by_name[name]

    @contextmanager
    def _speaking(self, task: str | None) -> Iterator[LoadedModel]:
        with quiet_libraries(), without_bars(), self._told(task), torch.no_grad():
            yield (lm := LoadedModel(self.model, self.tokenizer))
        if lm.truncated:
            warnings.warn(
                f"{lm.truncated:,} requests are longer than the model reads and lost their beginning",
                Notice,
                stacklevel=4,
            )

    def _told(self, task: str | None) -> AbstractContextManager[None]:
        if task is None and self.needs_tasks:
            raise UserError(f"this adapter answers by task: say which, one of {', '.join(self.tasks)}")
        if task is not None and self.tasks:
            self.check_task(task)
        return told(self.model, task) if self.needs_tasks and task is not None else nullcontext()

    def made_of(self) -> dict[str, str]:
        """What its answers come from: a hash of a sample of the weights, and of each of the adapter's files."""
        files = [] if self._adapter is None else sorted(self._adapter.glob("adapter_*"))
        return {"weights": fingerprint(self.model), **{path.name: file_hash(path) for path in files}}

    def check_task(self, name: str) -> None:
        """Raise UserError unless there is a task of that name."""
        self._check(name, self.tasks)

    def _check(self, task: str, known: Sequence[str]) -> None:
        if task not in known:
            raise UserError(f"unknown task {task!r}{nearest(task, known)} (there are {', '.join(known)})")


def load(
    folder: str | Path,
    *,
    base: BaseName | None = None,
    tasks: Sequence[Any] | None = None,
    data_dir: str | Path | None = None,
    dtype: str | None = None,
    device: str | None = None,
    chat_template: bool = False,
    trust_code: bool = False,
) -> Loaded:
    """Load a run, an adapter or an exported LoRA or model, base included.

    Args:
        folder: of any of these.
        base: name, folder or file of the base, in the place of the one that the folder names; it is loaded as that one
            was, quantised for example, unless it is a `BaseSpec`. Other weights than the adapter was trained on, or
            another tokenizer or chat template, are a `Notice`. Of a model that was trained whole, or merged, it is what
            it is shown beside.
        tasks: as in a run file, in the place of the run's, or for an adapter without its run.
        data_dir: where a run's task and data files are now, by the paths that they had from its run file's folder.
        dtype: of the base's weights, as of `bases.load_base`; as they were loaded for training when None.
        device: "cpu", "cuda" and so on; a GPU where there is one when None.
        chat_template: for `tasks` of what is no run, send prompts through the tokenizer's chat template; those of a run
            go as its run file says.
        trust_code: run functions that task files name, and code that comes with a base.

    Raises:
        UserError: there is no such thing in the folder, it is broken, or the base is another one.
    """
    folder, run = Path(folder), RunFolder(folder)
    config = run_file_of(run, data_dir, trust_code) if run.config.is_file() else None
    if data_dir is not None and config is None:
        raise UserError(f"{folder}: data_dir is for a run, and this is none: name its tasks' files")
    if chat_template and (config is not None or tasks is None):
        why = "is a run, whose run file says it" if config is not None else "no tasks are named that it could be for"
        raise UserError(f"{folder}: chat_template, or --chat-template: {why}")
    adapter: Path | None = None  # what PEFT loads
    whole: Path | None = None  # a model by itself
    names: list[str] = []
    if config is not None:
        summary = read_summary(folder)
        check_trained(folder, summary)
        adapter = run.adapter if summary["adapter"] == run.adapter.name else None
        whole = run.model if summary["adapter"] == run.model.name else None
        names = [task["task"] for task in summary["mixture"]]
    elif (folder / ADAPTER_CONFIG).is_file():
        adapter = folder
    elif (folder / "config.json").is_file():
        whole = folder
    else:
        check_no_comparison(folder)
        raise UserError(f"{folder}: holds no run, no adapter and no model")
    found: Any = None if config is None else partial(tasks_of, run, config, data_dir)
    if tasks is not None:
        chat = chat_template or (config is not None and config.chat_template)
        found = load_tasks(tasks, Path.cwd(), chat_template=chat, trust_code=trust_code)
    where = bases.device() if device is None else torch.device(device)

    def load_named() -> Base:
        """The base by itself, found to be the right one."""
        spec = config.base if config is not None else recorded_base(folder)
        if base is not None:
            spec = BaseSpec.of(base) if spec is None else spec.renamed(base)
        if spec is None:
            raise UserError(f"{folder}: nothing here says which base it was made from; name it with base=, or --base")
        with naming_base(folder, base):
            model, tokenizer = load_base(spec, dtype, trust_code)
        record = read_base_record(folder)
        known = record.get("fingerprint")
        if known is not None and base is None:
            check_fingerprint(model, known, str(folder))
        elif known is not None and whole is None and (own := fingerprint(model)) != known:
            warnings.warn(
                f"{folder}: {spec.name} has other weights (fingerprint {own}) than the base that the "
                f"adapter was trained on ({known})",
                Notice,
                stacklevel=2,
            )
        if adapter is not None:
            say_other_tokenizer(folder, record, adapter, spec.name, tokenizer)
        return model.to(where), tokenizer

    with quiet_libraries():
        if whole is None:
            model, tokenizer = load_named()
        else:
            saved = whole if config is None else config.base.renamed(str(whole))  # loaded as the base was
            model, tokenizer = load_base(saved, dtype, trust_code=trust_code)
        trained = model if adapter is None else attach(model, adapter)
    names = getattr(getattr(trained, "active_peft_config", None), "task_names", None) or names
    names = names or ([] if tasks is None else [task.name for task in found])
    plain = [] if config is None else plain_tasks(run, config, names)
    untrained = whole is None and adapter is None
    before = (lambda: model) if untrained else (lambda: load_named()[0])
    return Loaded(trained.to(where).eval(), tokenizer, names, found, before, folder, adapter, plain)


def _check_length(tokens: int | None) -> None:
    if tokens is not None and tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, got {tokens}")


def _answer(pieces: Iterable[str], turn: Turn) -> Iterator[str]:
    """The answer in pieces of what is written in a turn, each as soon as it cannot be the turn's end any more."""
    tails = (turn.words, turn.space + turn.words)
    written, told = "", 0
    for piece in pieces:
        written += piece
        if turn.words and turn.words in written:
            break
        if turn.opening.startswith(written):  # which may still become the turn's opening
            continue
        body = written.removeprefix(turn.opening)
        longest = max(map(len, tails))
        held = next(
            (n for n in range(min(longest, len(body)), 0, -1) if any(tail.startswith(body[-n:]) for tail in tails)), 0
        )
        yield body[told : len(body) - held]
        told = max(told, len(body) - held)
    yield turn.answer(written)[told:]
