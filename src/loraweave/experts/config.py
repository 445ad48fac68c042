"""A run file of experts: a run file, and what is said of single tasks in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from pydantic import BaseModel, ConfigDict, Field

from loraweave.adapters.config import beyond_plain
from loraweave.errors import UserError, nearest
from loraweave.experts.manifest import check_name, check_texts
from loraweave.paths import user_path
from loraweave.runs.config import RunConfig
from loraweave.runs.methods import choose_method
from loraweave.tasks import Task, load_tasks
from loraweave.tasks.harness import folder_index
from loraweave.tasks.sources import YAML_SUFFIXES


class ExpertSettings(BaseModel):
    """What is said of one task's expert.

    Attributes:
        description: what the task is, in words.
        instructions: examples of what it is asked; some of its training prompts if there are none.
        prefixes: how all that it is asked begins.
        method: fields of the method that are others for this task, such as `r`.
        train: training arguments that are others for this task, such as `max_steps`.
    """

    model_config = ConfigDict(extra="forbid")

    description: str = ""
    instructions: list[str] = Field(default_factory=list)
    prefixes: list[str] = Field(default_factory=list)
    method: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)


class ExpertsConfig(RunConfig):
    """A run file whose tasks become experts, each with a plain LoRA of its own.

    Attributes:
        method: `lora` or `rslora`, with their fields.
        experts: by task, what is others than for all.
    """

    method: str | dict[str, Any] = "lora"
    experts: dict[str, ExpertSettings] = Field(default_factory=dict)

    def tasks_apart(self) -> dict[str, tuple[Any, Task]]:
        """The tasks by name, each with the entry of a run file that names it alone.

        Raises:
            UserError: as of `load_tasks`; a name that no expert can have; settings for a task that is not there.
        """
        found: dict[str, tuple[Any, Task]] = {}
        for entry in self.tasks:
            tasks = load_tasks([entry], *self.how_tasks_load)
            for task in tasks:
                if task.name in found:
                    raise UserError(f"tasks: {task.name!r} is named twice")
                check_name(task.name, "tasks")
                found[task.name] = (entry if len(tasks) == 1 else self._member(entry, task.name), task)
        for name, settings in self.experts.items():
            if name not in found:
                raise UserError(f"experts: there is no task {name!r}{nearest(name, found)} among {', '.join(found)}")
            check_texts(settings.description, instructions=settings.instructions, prefixes=settings.prefixes)
        return found

    def _member(self, entry: str | dict[str, Any], name: str) -> str | dict[str, Any]:
        """An entry that stands for several tasks, for one of them alone; settings are as there."""
        written = str(entry if isinstance(entry, str) else entry["task"])
        one = name
        if Path(written).suffix in YAML_SUFFIXES:
            file = folder_index(user_path(written, self.base_dir).parent).get(name)
            if file is not None and file.yaml_path is not None:  # else it is one of lm-eval's own
                one = (Path(written).parent / file.yaml_path.name).as_posix()
        return one if isinstance(entry, str) else {**entry, "task": one}

    def alone(self, name: str, entry: Any) -> RunConfig:
        """The run file of one task's expert by itself.

        Args:
            name: of the task.
            entry: of `tasks:` that names it alone.

        Raises:
            UserError: a method that trains no plain LoRA, or a value that cannot be.
        """
        own = self.experts.get(name, ExpertSettings())
        method = {"name": self.method} if isinstance(self.method, str) else dict(self.method)
        values = {key: getattr(self, key) for key in RunConfig.model_fields}
        values |= {
            "tasks": [entry],
            "method": {**method, **own.method},
            "train": {**self.train, **own.train},
            "mixture": {},
            "eval": self.eval.model_dump(),
            "output": None,
        }
        config = RunConfig(**values)
        lora_of(config)
        return config


def lora_of(config: RunConfig) -> LoraConfig:
    """The plain LoRA that a run file trains.

    Raises:
        UserError: it trains something else.
    """
    chosen = choose_method(config.method)
    found = chosen.peft_config()
    losses: Mapping[str, Any] = chosen.losses.model_dump(exclude_defaults=True)
    odd = beyond_plain(found) if type(found) is LoraConfig else f"{chosen.name}"
    if odd is None and losses:
        odd = f"{next(iter(losses))}, a loss between tasks,"
    if odd is None and getattr(found, "modules_to_save", None):
        odd = "modules_to_save"
    if odd is not None:
        raise UserError(f"method: {odd} trains no plain LoRA of one task; experts are lora or rslora")
    assert isinstance(found, LoraConfig)
    return found
