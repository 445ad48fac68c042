"""Tasks: lm-eval tasks and files in TRL's formats, as examples to learn from and to be scored on."""

from loraweave.tasks.examples import Example
from loraweave.tasks.load import load_tasks
from loraweave.tasks.spec import TaskSpec
from loraweave.tasks.task import Task

__all__ = ["Example", "Task", "TaskSpec", "load_tasks"]
