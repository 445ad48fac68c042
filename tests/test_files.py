"""Files and folders are written whole or not at all, wherever a crash comes."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from loraweave.errors import UserError
from loraweave.files import append_json_line, mended, read_json, read_json_lines, write_json, write_text, written_whole


class Crash(BaseException):
    """The end of the process: nothing after it runs."""


def write(folder: Path, content: str) -> None:
    with written_whole(folder) as unfinished:
        for name in ("one", "two"):
            (unfinished / name).write_text(content)


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Crash in place of the rename of this number."""
    rename, left = os.replace, iter(range(number))

    def replace(source: Any, target: Any) -> None:
        if next(left, None) is None:
            raise Crash
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("renames", [0, 1])
def test_a_crash_while_a_folder_is_replaced_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    folder = tmp_path / "adapter"
    write(folder, "old")
    with monkeypatch.context() as patch:
        crash_at(patch, renames)
        with pytest.raises(Crash):
            write(folder, "new")
    assert [(mended(folder) / name).read_text() for name in ("one", "two")] == ["old", "old"]
    write(folder, "newer")
    assert [(folder / name).read_text() for name in ("one", "two")] == ["newer", "newer"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_persons_own_copy_is_neither_taken_back_nor_removed(tmp_path: Path) -> None:
    folder, mine = tmp_path / "out", tmp_path / "out.old"
    write(mine, "mine")
    for content in ("new", "newer"):
        write(folder, content)
        assert [(path / "one").read_text() for path in (folder, mine)] == [content, "mine"]


def test_a_folder_whose_writing_fails_is_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    write(folder, "old")
    with pytest.raises(TypeError):
        write(folder, 3)  # type: ignore[arg-type]
    assert (folder / "one").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_link_in_place_of_a_folder_is_replaced_and_what_it_points_to_kept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("keep me")
    (tmp_path / "adapter").symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "adapter", "new")
    assert not (tmp_path / "adapter").is_symlink()
    assert (tmp_path / "adapter" / "one").read_text() == "new"
    assert (tmp_path / "elsewhere" / "mine").read_text() == "keep me"


def test_a_file_is_on_the_disk_before_it_takes_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), rename(*paths))[1])
    write_text(tmp_path / "run.yaml", "model: nano\n")
    assert events == ["fsync", "rename", "fsync"]  # the file, its name, the folder that holds the name
    assert (tmp_path / "run.yaml").read_text() == "model: nano\n"


def test_numbers_that_json_has_no_word_for_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [math.nan, 1.5], "b": {"c": (math.inf, -math.inf)}})
    append_json_line(tmp_path / "a.jsonl", {"grad_norm": math.nan})
    assert read_json(tmp_path / "a.json") == {"a": [None, 1.5], "b": {"c": [None, None]}}
    assert read_json_lines(tmp_path / "a.jsonl") == [{"grad_norm": None}]


def test_a_torn_last_line_is_left_out_and_a_broken_one_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_json_lines(path) == []
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    assert read_json_lines(path) == [{"step": 1}]
    for broken in (b"x}", b'{"a": "\xff"}', b"3", b"[" * 100_000, b""):
        path.write_bytes(json.dumps({"step": 1}).encode() + b"\n" + broken + b"\n")
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: a JSON object is wanted"):
            read_json_lines(path)


def test_a_file_that_cannot_be_written_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    for path, reason in ((tmp_path / "file" / "below", "Not a directory"), (tmp_path / ("n" * 300), "name too long")):
        with pytest.raises(UserError, match=f"cannot be written: .*{reason}"):
            write_text(path, "content")
        with pytest.raises(UserError, match=f"cannot be written: .*{reason}"):
            append_json_line(path, {})


def test_half_a_character_is_kept_in_jsons_own_spelling(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "task\udce9", "other": "né"})
    assert read_json(tmp_path / "a.json") == {"name": "task\udce9", "other": "né"}
    assert "né" in (tmp_path / "a.json").read_text(encoding="utf-8")
