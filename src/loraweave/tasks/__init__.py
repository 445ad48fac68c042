"""Tasks: lm-eval tasks and files in TRL's formats, as examples, as token rows and as a mixture."""

from loraweave.tasks.encode import IGNORED, Encoded, Row, TooLongError, encode_all
from loraweave.tasks.examples import Example
from loraweave.tasks.load import load_tasks
from loraweave.tasks.mixture import Mixture, MixtureConfig, Realised, realised_table
from loraweave.tasks.preview import list_tasks, preview, summarise
from loraweave.tasks.spec import TaskSpec
from loraweave.tasks.task import Task

__all__ = [
    "IGNORED",
    "Encoded",
    "Example",
    "Mixture",
    "MixtureConfig",
    "Realised",
    "Row",
    "Task",
    "TaskSpec",
    "TooLongError",
    "encode_all",
    "list_tasks",
    "load_tasks",
    "preview",
    "realised_table",
    "summarise",
]
