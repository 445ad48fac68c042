"""Parts for the tests of training."""

from tiny_training import make_trainer, project, rows

__all__ = ["make_trainer", "project", "rows"]
