"""The names under which models are asked for, and who speaks under each."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.cli.serving.model_manager import ModelManager

from loraweave.errors import UserError, nearest
from loraweave.evaluation.loaded import Loaded
from loraweave.serving.refusals import RefusalError
from loraweave.serving.voices import BASE, Speakers, Voice

BASE_NAME = "base"


class Catalog(ModelManager):
    """What is served, in the place of what Transformers' server loads by name from the hub: nothing is loaded because
    somebody asks for it.

    Args:
        loaded: the model and what it was trained on.
        speakers: the same model, told who speaks.
        name: of it, as clients ask for it.

    Attributes:
        name: of what is served.
        needs_task: whether a task must be named.

    Raises:
        UserError: a name that is taken, or that no client could ask for.
    """

    def __init__(self, loaded: Loaded, speakers: Speakers, name: str) -> None:
        super().__init__(device="cpu", model_timeout=-1)
        self.name = name
        self.needs_task = loaded.needs_tasks
        self._loaded = loaded
        self._since = int(time.time())
        self._voices = voices_of(loaded, speakers, name)

    @property
    def names(self) -> list[str]:
        """Every name, in the order in which they are listed."""
        return list(self._voices)

    def voice(self, name: str) -> Voice:
        """Who speaks under a name.

        Raises:
            RefusalError: 404, nobody does; the names that there are.
        """
        voice = self._voices.get(name)
        if voice is None:
            listed = ", ".join(self.names[:20]) + (", …" if len(self.names) > 20 else "")
            why = f"{name} answers by task: ask for one of {listed}" if name == self.name else None
            hint = f"there is no model {name[:80]!r}{nearest(name, self.names)} (there are {listed})"
            raise RefusalError(404, why or hint, "model", "model_not_found")
        return voice

    def load_model_and_processor(self, *args: Any, **kwargs: Any) -> tuple[Any, PreTrainedTokenizerBase]:
        """The model that is there already, and its tokenizer."""
        return self._loaded.model, self._loaded.tokenizer

    def get_gen_models(self, cache_dir: str | None = None) -> list[dict[str, Any]]:  # type: ignore[override]
        """The list of /v1/models."""
        return [{"id": name, "object": "model", "created": self._since, "owned_by": "loraweave"} for name in self.names]

    def shutdown(self) -> None:
        """Nothing: the model ends with the process."""


def voices_of(loaded: Loaded, speakers: Speakers, name: str) -> Mapping[str, Voice]:
    """The voices of what was loaded, by the names of their models; raises as `Catalog` does."""
    check_name(name)
    adapter = speakers.adapter
    if adapter is not None and name == BASE_NAME:
        raise UserError(f"{BASE_NAME!r} is the name of the base here: choose another with --name")
    voices: dict[str, Voice] = {}
    if not loaded.needs_tasks:
        voices[name] = Voice(adapter)
    for number, task in enumerate(loaded.tasks):
        voices[f"{name}:{task}"] = Voice(adapter, number if loaded.needs_tasks else None)
    if adapter is not None and speakers.alone is None:
        voices[BASE_NAME] = BASE
    return voices


def check_name(name: str) -> None:
    """Raise UserError for a name that is no name of a model."""
    if not re.fullmatch(r"[^\s:\x00-\x1f]{1,200}", name):
        raise UserError(f"the name {name!r} has a colon or a space, is empty or too long: choose another with --name")


def name_of(folder: Path) -> str:
    """The name of what a folder holds: the folder's, or that of its run where it is a run's adapter."""
    folder = folder.resolve()
    return folder.parent.name if folder.name in ("adapter", "model") and folder.parent.name else folder.name
