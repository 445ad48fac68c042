"""Parts for the tests of estimates."""

from tiny_training import project

__all__ = ["project"]
