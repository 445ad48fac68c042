"""The compatibility matrix: every behaviour of every method on every architecture; printed as docs/compatibility.md."""

from pathlib import Path

import compatibility.adapter_behaviours
import compatibility.merging_behaviours
import compatibility.task_behaviours
import compatibility.training_behaviours  # noqa: F401
import pytest
from compatibility.cases import Cell, cells

from loraweave import UserError

PARAMETERS = [pytest.param(cell, id=cell.id, marks=() if cell.core else pytest.mark.long) for cell in cells()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cell", PARAMETERS)
def test_cell(cell: Cell, tmp_path: Path, record_cell):
    check, case = cell.behaviour.check, cell.case
    where = cell.behaviour.name, case.architecture.name, case.method
    record_cell(*where)
    if cell.behaviour.refused(case):
        with pytest.raises(UserError) as error:
            check(case, tmp_path)
        return record_cell(*where, "no", str(error.value))
    if (reason := cell.behaviour.impossible(case)) is not None:
        with pytest.raises((AssertionError, TypeError, ValueError, RuntimeError)):
            check(case, tmp_path)
        return record_cell(*where, "no", reason)
    check(case, tmp_path)
    record_cell(*where, "yes", "")
