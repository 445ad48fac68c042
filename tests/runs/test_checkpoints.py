"""Which checkpoint a run goes on from, and why not from another."""

import math
from pathlib import Path

import pytest
from transformers import TrainerState

from loraweave.errors import UserError
from loraweave.files import hashes_of, read_json, write_json
from loraweave.runs.checkpoints import check_processes, fault_of, finish, newest_whole, saved_or_told


def save(folder: Path, step: int, best: int | None = None, processes: int = 1) -> Path:
    """A checkpoint of three files, one of them in a folder of its own."""
    checkpoint = folder / f"checkpoint-{step}"
    with saved_or_told(checkpoint) as unfinished:
        written = unfinished / checkpoint.name
        (written / "global_step").mkdir(parents=True)
        (written / "global_step" / "optimizer.pt").write_bytes(bytes([step]) * 100)
        (written / "rng_state.pth").write_bytes(b"state")
        path = best and f"/where/it/was/checkpoint-{best}"
        state = TrainerState(global_step=step, epoch=0.5, best_model_checkpoint=path)
        state.save_to_json(str(written / "trainer_state.json"))
        finish(unfinished, checkpoint, processes)
    return checkpoint


def rewritten(checkpoint: Path, name: str, content: bytes) -> Path:
    """A checkpoint with one file of somebody else's, which its list of files does not give away."""
    (checkpoint / name).write_bytes(content)
    (checkpoint / "manifest.json").unlink()
    write_json(checkpoint / "manifest.json", {"files": hashes_of(checkpoint)})
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


@pytest.mark.parametrize(
    "state",
    [
        "{}",
        "[]",
        '{"global_step": "4"}',
        '{"global_step": 5}',
        '{"global_step": 4, "log_history": [3]}',
        '{"global_step": 4, "best_model_checkpoint": 3}',
        '{"global_step": 4, "no such thing": 1}',
        '{"global_step": 4, "epoch": "x"}',
        "\ud800",
    ],
)
def test_what_is_no_state_of_that_step_is_not_gone_on_from(tmp_path: Path, state: str) -> None:
    checkpoint = rewritten(save(tmp_path, 4), "trainer_state.json", state.encode("utf-8", "surrogatepass"))
    assert (fault_of(checkpoint) or "").startswith("trainer_state.json")


def test_a_state_that_logged_what_is_no_number_is_one(tmp_path: Path) -> None:
    state = TrainerState(global_step=4, epoch=1, log_history=[{"step": 1, "grad_norm": math.nan}], best_metric=1)
    state.save_to_json(str(tmp_path / "state.json"))
    content = (tmp_path / "state.json").read_bytes()
    assert b"NaN" in content
    assert fault_of(rewritten(save(tmp_path, 4), "trainer_state.json", content)) is None


@pytest.mark.parametrize("name", ["../../secret", "/dev/zero", "", "..", "a/../../b", "a\0b"])
def test_a_list_of_files_names_none_outside(tmp_path: Path, name: str) -> None:
    """A device would be read without end."""
    checkpoint = save(tmp_path, 4)
    write_json(checkpoint / "manifest.json", {"files": {name: "0" * 64}})
    assert (fault_of(checkpoint) or "").endswith("is no file in it")


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    """A step would have other rows."""
    checkpoint = save(tmp_path, 4, processes=2)
    check_processes(checkpoint, 2)
    with pytest.raises(UserError, match="the processes were 2 and are now 1"):
        check_processes(checkpoint, 1)
