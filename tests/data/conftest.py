"""Parts for the tests of data: tokenizers, tasks in files, token rows."""

from tiny_tasks import scorers, tokenizers, write_task
from tiny_training import rows

__all__ = ["rows", "scorers", "tokenizers", "write_task"]
