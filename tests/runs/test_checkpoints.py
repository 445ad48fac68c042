"""Which checkpoint a run goes on from, and why not from another."""

from pathlib import Path

import pytest

from loraweave.errors import UserError
from loraweave.files import read_json, write_json
from loraweave.runs.checkpoints import finish, newest_whole, saved_or_told


def save(folder: Path, step: int, best: int | None = None) -> Path:
    """A checkpoint of three files, one of them in a folder of its own."""
    checkpoint = folder / f"checkpoint-{step}"
    with saved_or_told(checkpoint) as unfinished:
        written = unfinished / checkpoint.name
        (written / "global_step").mkdir(parents=True)
        (written / "global_step" / "optimizer.pt").write_bytes(bytes([step]) * 100)
        (written / "rng_state.pth").write_bytes(b"state")
        path = best and f"/where/it/was/checkpoint-{best}"
        write_json(written / "trainer_state.json", {"best_model_checkpoint": path})
        finish(unfinished, checkpoint)
    return checkpoint


def test_a_checkpoint_is_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    assert newest_whole(tmp_path / "none").checkpoint is None
    save(tmp_path, 8)
    newest = save(tmp_path, 10)
    for name in ("checkpoint-x", "checkpoint-٣٠", "unfinished"):
        (tmp_path / name).mkdir()
    assert newest_whole(tmp_path).checkpoint == newest
    assert sorted(read_json(newest / "manifest.json")["files"]) == [
        "global_step/optimizer.pt",
        "rng_state.pth",
        "trainer_state.json",
    ]
    (tmp_path / "unfinished").rmdir()
    save(tmp_path, 10)  # once more, over the other
    assert sorted(path.name for path in tmp_path.glob("checkpoint-1*")) == ["checkpoint-10"]
    assert not (tmp_path / "unfinished").exists()


@pytest.mark.parametrize("name", ["global_step/optimizer.pt", "rng_state.pth", "trainer_state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["missing", "torn", "flipped", "empty"])
def test_a_checkpoint_that_is_not_as_it_was_written_is_left_out_and_named(tmp_path: Path, name: str, harm: str) -> None:
    whole, torn = save(tmp_path, 40), save(tmp_path, 60)
    file, content = torn / name, (torn / name).read_bytes()
    if harm == "missing":
        file.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        file.write_bytes({"torn": content[:-3], "flipped": flipped, "empty": b""}[harm])
    start = newest_whole(tmp_path)
    assert start.checkpoint == whole
    assert str(start).startswith("resuming from step 40; checkpoint-60 is torn: ")
    if name != "manifest.json":
        assert start.torn["checkpoint-60"].startswith(name)


def test_none_whole_is_refused(tmp_path: Path) -> None:
    (save(tmp_path, 40) / "rng_state.pth").unlink()
    with pytest.raises(UserError, match=r"no checkpoint is whole \(checkpoint-40: rng_state\.pth is missing\)"):
        newest_whole(tmp_path)


def test_a_checkpoint_whose_best_is_torn_is_not_gone_on_from(tmp_path: Path) -> None:
    first = save(tmp_path, 10, best=10)
    best = save(tmp_path, 20, best=20)
    newest = save(tmp_path, 30, best=20)
    assert newest_whole(tmp_path, with_best=True).checkpoint == newest
    (best / "rng_state.pth").unlink()
    assert newest_whole(tmp_path).checkpoint == newest
    start = newest_whole(tmp_path, with_best=True)
    assert start.checkpoint == first
    assert "checkpoint-20" in start.torn["checkpoint-30"]
