"""Folders that are full, not to be written to, or at work in by another process."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.victims import Victims, differences, files

Count = Callable[[str, str], None]

NOBODY = 65534
SIZES = (40, 120, 200, 260, 320, 400, 500)  # KiB; a run fills some 600


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Victims, Path]]:
    """A server that sees a small file system, in a name space of its own, and where that is."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "disk").mkdir()
    within = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=1M tmpfs {folder / 'disk'}"
    try:
        tried = subprocess.run([*within, mount], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare to have a small file system with")
    if tried.returncode != 0:
        pytest.skip(f"no small file system without root: {tried.stderr.strip()}")
    made = Victims(folder, [*within, f'{mount} && exec "$@"', "sh"])
    yield made, folder / "disk"
    made.close()


@pytest.mark.long
def test_a_full_disk(disk: tuple[Victims, Path], count: Count) -> None:
    victims, small = disk
    whole, config, _, _ = victims.whole()
    full = 0
    for size in SIZES:
        assert victims.order("resize", small, size=f"{size}k", empty=True)["ended"] == "well"
        first = victims.order("train", small / "out", config)
        assert first["ended"] in ("refused", "well"), (size, first)
        if first["ended"] == "refused":
            full += 1
            assert "the disk is full" in first["line"], (size, first)
            assert victims.order("resize", small, size="4M", empty=False)["ended"] == "well"
            again = victims.order("train", small / "out", config, resume=True)
            assert again["ended"] == "well", (size, first, again)
        copy = victims.empty("copy")
        assert victims.order("copy", small / "out", to=str(copy))["ended"] == "well"
        assert differences(copy, whole) == [], (size, first)
        count("a disk that fills up in a run", f"{first['ended']}, resumed once there was room")
    assert full >= 4


@pytest.fixture(scope="module")
def others() -> Iterator[tuple[Victims, int | None]]:
    """A server in a folder that everybody may read, and the id of a user who may not write there."""
    folder = Path(tempfile.mkdtemp(prefix="victims-"))
    made = Victims(folder)
    folder.chmod(0o755)
    (folder / "huggingface").mkdir(mode=0o777)
    (folder / "huggingface").chmod(0o777)
    yield made, NOBODY if os.geteuid() == 0 else None
    made.close()
    shutil.rmtree(folder)


def test_a_folder_that_is_not_to_be_written_to(others: tuple[Victims, int | None], count: Count) -> None:
    victims, user = others
    run, config, events, _ = victims.whole()
    killed, closed = victims.empty("killed"), victims.empty("closed")
    assert victims.order("train", killed, config, kill_at=events // 2)["killed"]
    closed.mkdir()
    folders = [path for top in (run, killed, closed) for path in (top, *top.rglob("*")) if path.is_dir()]
    before = files(run), files(killed)
    for folder in folders:
        folder.chmod(0o555)
    try:
        for output, resume, command in (
            (closed, False, "train"),
            (closed / "new", False, "train"),
            (killed, True, "train"),
            (closed / "new", False, "compare"),
        ):
            answer = victims.order(command, output, config, resume=resume, user=user)
            assert answer["ended"] == "refused", answer
            assert "Permission denied" in answer["line"], answer
            count("a folder not to be written to", "refused in one line")
        looked = victims.order("look", run, user=user)
        assert looked["ended"] == "well", looked
        count("a finished run that may only be read", "loaded all the same")
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert before == (files(run), files(killed))


@pytest.mark.parametrize("begun", [False, True])
def test_two_processes_in_one_folder(victims: Victims, count: Count, begun: bool) -> None:
    whole, config, events, _ = victims.whole()
    folder = victims.empty("shared")
    if begun:
        assert victims.order("train", folder, config, kill_at=events // 2)["killed"]
    answers = victims.orders("train", folder, config, resume=begun, at_once=2)
    assert sorted(answer["ended"] for answer in answers) == ["refused", "well"], answers
    first = next(answer for answer in answers if answer["ended"] == "well")
    line = next(answer["line"] for answer in answers if answer["ended"] == "refused")
    assert f"process {first['process']} on" in line, answers
    assert differences(folder, whole) == []
    count("two processes in the folder of a run", "the second refused, the first named")


def test_two_comparisons_in_one_folder(victims: Victims, count: Count) -> None:
    config, folder = victims.config(), victims.empty("shared-comparison")
    answers = victims.orders("compare", folder, config, at_once=2)
    assert sorted(answer["ended"] for answer in answers) == ["refused", "well"], answers
    first = next(answer for answer in answers if answer["ended"] == "well")
    line = next(answer["line"] for answer in answers if answer["ended"] == "refused")
    assert f"process {first['process']} on" in line, answers
    assert [status for _, status, _ in first["runs"]] == ["finished"] * 3
    count("two processes in the folder of a comparison", "the second refused, the first named")
