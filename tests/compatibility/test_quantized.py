"""Adapters on quantised bases; a base whose library is not installed is skipped."""

from pathlib import Path

import pytest
from compatibility.cases import CORE, METHODS
from compatibility.quantized import CHECKS, KINDS, case_of


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", [pytest.param(m, marks=() if m in CORE else pytest.mark.long) for m in METHODS])
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", KINDS)
def test_quantised(kind: str, check: str, method: str, tmp_path: Path, record_cell):
    record_cell(check, kind, method)
    refusal = CHECKS[check](case_of(method), kind, tmp_path)
    record_cell(check, kind, method, "no" if refusal else "yes", refusal or "")
