"""The names under which models are asked for, and who speaks under each."""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.cli.serving.model_manager import ModelManager

from loraweave.errors import UserError, nearest
from loraweave.evaluation.loaded import Loaded
from loraweave.experts.manifest import BASE as BASE_NAME
from loraweave.serving.refusals import RefusalError
from loraweave.serving.voices import BASE, AnySpeakers, Voice
from loraweave.tasks.examples import Prompt


class Catalog(ModelManager, ABC):
    """What is served, in the place of what Transformers' server loads by name from the hub: nothing is loaded because
    somebody asks for it.

    Args:
        name: of what is served, as clients ask for it.
        model: that runs.
        tokenizer: its own.

    Attributes:
        name: as given.

    Raises:
        UserError: a name that no client could ask for.
    """

    def __init__(self, name: str, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(device="cpu", model_timeout=-1)
        check_name(name)
        self.name = name
        self._model = model, tokenizer
        self._since = int(time.time())

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Every name, in the order in which they are listed."""

    @property
    @abstractmethod
    def texts(self) -> list[str]:
        """The names of what was trained on plain prompts and not on chats, as far as that is known."""

    @abstractmethod
    def voice(self, name: str) -> Voice:
        """Who speaks under a name.

        Raises:
            RefusalError: 404, nobody does; the names that there are.
        """

    def speaking(self, name: str, said: Prompt) -> AbstractAsyncContextManager[tuple[str, Voice]]:
        """Who answers a request, and under what name, while the block runs.

        Args:
            name: as it was asked for.
            said: what was asked, for names that go by it.

        Raises:
            RefusalError: as of `voice`.
        """
        return nullcontext((name, self.voice(name)))

    def refresh(self) -> None:
        """Look whether there are other models now."""

    def unknown(self, name: str) -> RefusalError:
        """What is told for a name that there is not."""
        listed = first_names(self.names)
        if name == self.name:
            return RefusalError(404, f"{name} wants a task: ask for one of {listed}", "model", "model_not_found")
        hint = f"there is no model {name[:80]!r}{nearest(name, self.names)} (there are {listed})"
        return RefusalError(404, hint, "model", "model_not_found")

    def load_model_and_processor(self, *args: Any, **kwargs: Any) -> tuple[Any, PreTrainedTokenizerBase]:
        """The model that is there already, and its tokenizer."""
        return self._model

    def get_gen_models(self, cache_dir: str | None = None) -> list[dict[str, Any]]:  # type: ignore[override]
        """The list of /v1/models."""
        self.refresh()
        texts = {*self.texts}
        return [self._described(name, texts) for name in self.names]

    def model(self, name: str) -> dict[str, Any]:
        """One entry of that list.

        Raises:
            RefusalError: 404, there is none of that name.
        """
        self.voice(name)
        return self._described(name, self.texts)

    def _described(self, name: str, texts: Container[str]) -> dict[str, Any]:
        described = {"id": name, "object": "model", "created": self._since, "owned_by": "loraweave"}
        return described | ({"prompts": "text"} if name in texts else {})

    def shutdown(self) -> None:
        """Nothing: the model ends with the process."""


class RunCatalog(Catalog):
    """The names of one adapter, or of a model without one.

    Args:
        loaded: the model and what it was trained on.
        speakers: the same model, told who speaks.
        name: of it.

    Raises:
        UserError: as `Catalog` does, or a name that is taken.
    """

    def __init__(self, loaded: Loaded, speakers: AnySpeakers, name: str) -> None:
        super().__init__(name, speakers.base, loaded.tokenizer)
        if speakers.adapter is not None and name == BASE_NAME:
            raise UserError(f"{BASE_NAME!r} is the name of the base here: choose another with --name")
        self._voices: dict[str, Voice] = {}
        if not loaded.needs_tasks:
            self._voices[name] = Voice(speakers.adapter)
        for number, task in enumerate(loaded.tasks):
            self._voices[f"{name}:{task}"] = Voice(speakers.adapter, number if loaded.needs_tasks else None)
        own = {name: None, **{f"{name}:{task}": task for task in loaded.tasks}}
        self._texts = [one for one, task in own.items() if one in self._voices and not loaded.takes_chats(task)]
        if speakers.adapter is not None and speakers.alone is None:
            self._voices[BASE_NAME] = BASE

    @property
    def names(self) -> list[str]:
        """Every name, in the order in which they are listed."""
        return list(self._voices)

    @property
    def texts(self) -> list[str]:
        """The names of what was trained on plain prompts."""
        return self._texts

    def voice(self, name: str) -> Voice:
        """As of `Catalog`."""
        if name not in self._voices:
            raise self.unknown(name)
        return self._voices[name]


def first_names(names: Sequence[str], most: int = 20) -> str:
    """Names in a line; of many the first."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def check_name(name: str) -> None:
    """Raise UserError for a name that is no name of a model."""
    if not re.fullmatch(r"[^\s:\x00-\x1f]{1,200}", name):
        raise UserError(f"the name {name!r} has a colon or a space, is empty or too long: choose another with --name")


def name_of(folder: Path) -> str:
    """The name of what a folder holds: the folder's, or that of its run where it is a run's adapter."""
    folder = folder.resolve()
    return folder.parent.name if folder.name in ("adapter", "model") and folder.parent.name else folder.name
