"""One object for a trained adapter: its base, its tokenizer, its tasks; it answers, and it predicts as it is scored."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextIteratorStreamer

from loraweave.bases import check_fingerprint, load_base
from loraweave.data.border import context_ids
from loraweave.errors import UserError, nearest
from loraweave.evaluation.lm import LoadedModel
from loraweave.evaluation.predict import Prediction, Prompt, predict_rows, write_answers
from loraweave.evaluation.scoring import default_batch_size
from loraweave.files import read_json
from loraweave.quiet import quiet_libraries, without_bars
from loraweave.runs.attaching import attach
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import RunFolder, read_summary
from loraweave.tasks import Task, load_tasks
from loraweave.tasks.template import apply_template
from loraweave.tasks.turn import turn_of
from loraweave.tuner.context import task as told


class Loaded:
    """A model that is ready to be asked; made by `loraweave.load`.

    Args:
        found: the tasks by name, or the run file that names them; None where nothing does.

    Attributes:
        model: the base with the adapter on it, in evaluation mode.
        tokenizer: the base's.
        tasks: names of the tasks that it was trained on.
        needs_tasks: whether it answers by task, so that one must be named.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Sequence[str],
        found: Mapping[str, Task] | RunConfig | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.tasks = list(tasks)
        self._found = found
        config: Any = model.active_peft_config if isinstance(model, PeftModel) else None
        self.needs_tasks = bool(getattr(config, "needs_tasks", False))

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
            UserError: an unknown task, or none where one is needed; chats and a tokenizer without a template.
        """
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
            messages: of a chat, or a text to go on from.
            max_new_tokens: at most.
            adapter: False for the base's own answer.

        Raises:
            UserError: as of `generate`.
        """
        with self._told(task):
            pass  # an unknown task is an error here, and not in a thread
        turn = None if isinstance(messages, str) else turn_of(self.tokenizer)
        text = messages if isinstance(messages, str) else apply_template(self.tokenizer, messages, True)
        ids = torch.tensor([context_ids(text, self.tokenizer)], device=self.model.device)
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        ends = {self.tokenizer.eos_token_id, turn.token if turn else None} - {None}
        how = {"max_new_tokens": max_new_tokens, "do_sample": False, "eos_token_id": sorted(ends)}
        if turn is not None and turn.words:
            how |= {"stop_strings": [turn.words], "tokenizer": self.tokenizer}

        def run() -> None:
            try:
                with quiet_libraries(), self._told(task), nullcontext() if adapter else self._base():
                    self.model.generate(ids, attention_mask=torch.ones_like(ids), streamer=streamer, **how)
            finally:
                streamer.end()

        thread = Thread(target=run, daemon=True)
        thread.start()
        yield from _until(streamer, turn.words if turn else "")
        thread.join()

    def predict(self, task: str, rows: Sequence[Mapping[str, Any]], first: int = 1) -> list[Prediction]:
        """Answers to rows as an evaluation finds them: labels ranked, or text with the task's stop rules and filter.

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
        if isinstance(self._found, RunConfig):
            self._found = {task.name: task for task in self._found.load_tasks()}
        self._check(name, list(self._found))
        return self._found[name]

    def all_tasks(self) -> list[Task]:
        """Every task that is known with its data, in the order of the run."""
        if isinstance(self._found, RunConfig):
            self._found = {task.name: task for task in self._found.load_tasks()}
        return list((self._found or {}).values())

    @contextmanager
    def _speaking(self, task: str | None) -> Iterator[LoadedModel]:
        with quiet_libraries(), without_bars(), self._told(task), torch.no_grad():
            yield LoadedModel(self.model, self.tokenizer, default_batch_size(self.model))

    def _told(self, task: str | None) -> AbstractContextManager[None]:
        if task is None and self.needs_tasks:
            raise UserError(f"this adapter answers by task: say which, one of {', '.join(self.tasks)}")
        if task is not None and self.tasks:
            self.check_task(task)
        return told(self.model, task) if self.needs_tasks and task is not None else nullcontext()

    def check_task(self, name: str) -> None:
        """Raise UserError unless there is a task of that name."""
        self._check(name, self.tasks)

    def _base(self) -> AbstractContextManager[None]:
        return self.model.disable_adapter() if isinstance(self.model, PeftModel) else nullcontext()

    def _check(self, task: str, known: Sequence[str]) -> None:
        if task not in known:
            raise UserError(f"unknown task {task!r}{nearest(task, known)} (there are {', '.join(known)})")


def load(
    folder: str | Path,
    *,
    base: str | None = None,
    tasks: Sequence[Any] | None = None,
    dtype: str = "auto",
    device: str | None = None,
    trust_code: bool = False,
) -> Loaded:
    """Load a run, an adapter or an exported LoRA or model, base included.

    Args:
        folder: of any of these.
        base: name or folder of the base, in the place of the one that the folder names.
        tasks: as in a run file, in the place of the run's, or for an adapter without its run.
        dtype: of the base's weights, as of `bases.load_base`.
        device: "cpu", "cuda" and so on; a GPU where there is one when None.
        trust_code: run functions that task files name, and code that comes with a base.

    Raises:
        UserError: there is no such thing in the folder, it is broken, or the base is another one.
    """
    folder, run = Path(folder), RunFolder(folder)
    config = RunConfig.load(run.config).model_copy(update={"trust_code": trust_code}) if run.config.is_file() else None
    adapter: Path | None = folder
    summary: dict[str, Any] = {}
    if config is not None:
        summary = read_summary(folder)
        kind = summary["adapter"]
        adapter = run.adapter if kind == run.adapter.name else None
        name = base or (str(run.model) if kind == run.model.name else config.model)
    elif (folder / "adapter_config.json").is_file():
        name = base or _base_of(folder)
    elif (folder / "config.json").is_file():
        adapter, name = None, str(folder)
    else:
        raise UserError(f"{folder}: holds no run, no adapter and no model")
    found: Any = config
    if tasks is not None:
        found = {task.name: task for task in load_tasks(tasks, Path.cwd(), trust_code=trust_code)}
    with quiet_libraries():
        model, tokenizer = load_base(name, dtype, trust_code=trust_code)
        if adapter is not None:
            recorded = read_json(adapter / "base.json") if (adapter / "base.json").is_file() else {}
            if base is None and "fingerprint" in recorded:
                check_fingerprint(model, recorded["fingerprint"], str(folder))
            model = attach(model, adapter)
    names = getattr(getattr(model, "active_peft_config", None), "task_names", None)
    if not names and config is not None:
        names = [task["task"] for task in summary.get("mixture", ())]
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Loaded(model.to(where).eval(), tokenizer, names or list(found if isinstance(found, dict) else ()), found)


def _until(pieces: Iterable[str], words: str) -> Iterator[str]:
    """Pieces of text up to some words, which may come in several pieces themselves."""
    held = ""
    for piece in pieces:
        before, found, _ = (held + piece).partition(words) if words else (held + piece, "", "")
        if found:
            held = before
            break
        possible = next((n for n in range(min(len(words), len(before)), 0, -1) if words.startswith(before[-n:])), 0)
        yield before[: len(before) - possible]
        held = before[len(before) - possible :]
    for _ in pieces:  # what the model still says goes unheard
        pass
    if held:
        yield held


def _base_of(folder: Path) -> str:
    """The base that an adapter's folder names."""
    recorded = read_json(folder / "base.json").get("name") if (folder / "base.json").is_file() else None
    name = recorded or read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not name:
        raise UserError(f"{folder}: nothing here says which base the adapter belongs to; name it")
    return str(name)
