"""Parts for the tests of tasks."""

from tiny_tasks import scorers, tokenizers, write_task

__all__ = ["scorers", "tokenizers", "write_task"]
