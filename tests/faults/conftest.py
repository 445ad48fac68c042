"""A server that carries out commands which are made to fail."""

from collections.abc import Iterator

import pytest
from faults.victims import Victims


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    """See `Victims`; one for each file of tests."""
    made = Victims(tmp_path_factory.mktemp("victims"))
    yield made
    made.close()
