"""A finished run whose data are elsewhere now: they must be the same."""

import shutil
from pathlib import Path

import pytest
from tiny_tasks import write_jsonl

from loraweave.errors import UserError
from loraweave.files import write_json
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import RunFolder
from loraweave.runs.origin import check_moved_data, describe_data, hold_to


def test_data_under_another_name_are_not_taken_for_those_of_the_run(tmp_path: Path) -> None:
    """A pattern that is nothing but stars is called after its folder."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    write_jsonl(here / "rows.jsonl", [{"prompt": f"p{n}", "completion": "c"} for n in range(9)])
    config = RunConfig(model="nano", tasks=["*.jsonl"], base_dir=str(here))
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    hold_to(run, {"name": "nano", "fingerprint": "f"}, describe_data(config.load_tasks()))
    shutil.copytree(here, there)
    with pytest.raises(UserError, match=r"there the tasks of .*run are called there, and they were here: a pattern"):
        check_moved_data(run, config.moved_to(there).load_tasks(), there)
    (tmp_path / "copy").mkdir()
    shutil.move(there, tmp_path / "copy" / "here")
    there = tmp_path / "copy" / "here"
    check_moved_data(run, config.moved_to(there).load_tasks(), there)
    write_json(run.data, {})  # of the method `base`, which learns nothing
    check_moved_data(run, config.load_tasks(), here)
