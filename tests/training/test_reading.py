"""A checkpoint is read as tensors and plain values, whoever wrote it: nothing in it runs."""

import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.distributed import checkpoint as sharded
from torch.distributed.checkpoint.filesystem import FileSystemReader

from loraweave.errors import UserError
from loraweave.files import hashes_of, write_json
from loraweave.runs.config import RunConfig
from loraweave.training.reading import plainly
from loraweave.training.run import train


class Acts:
    """Makes a file as soon as it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> Any:
        return open, (str(self.ran), "w")


def begun(project: Path) -> Path:
    """The folder of a run that was stopped after its second step of four, and its configuration."""
    settings = ["train.max_steps=4", "train.save_strategy=steps", "train.save_steps=2", "train.eval_strategy=no"]
    config = RunConfig.load(project / "run.yaml", settings)
    folder = train(config, project / "out", console=Console(file=io.StringIO())).folder
    shutil.rmtree(folder / "adapter")
    shutil.rmtree(folder / "checkpoints" / "checkpoint-4")
    (folder / "summary.json").unlink()
    return folder


def gone_on_with(folder: Path) -> Any:
    return train(RunConfig.load(folder / "run.yaml"), folder, resume=True, console=Console(file=io.StringIO()))


def put(checkpoint: Path, name: str, content: Any) -> None:
    """Write a file of a checkpoint, and its hash into the list of files."""
    torch.save(content, checkpoint / name)
    (checkpoint / "manifest.json").unlink()
    write_json(checkpoint / "manifest.json", {"files": hashes_of(checkpoint)})


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("wrong", ["acts", "other"])
def test_a_file_that_is_more_or_something_else_is_one_line(
    project: Path, tmp_path: Path, name: str, wrong: str
) -> None:
    folder, ran = begun(project), tmp_path / "ran"
    checkpoint = folder / "checkpoints" / "checkpoint-2"
    put(checkpoint, name, {"state": Acts(ran)} if wrong == "acts" else {"state": torch.zeros(3)})
    with pytest.raises(UserError, match="checkpoint-2: the run cannot go on from it: ") as caught:
        gone_on_with(folder)
    assert "\n" not in str(caught.value)
    assert not ran.exists()


def test_what_a_checkpoint_holds_beside_is_not_read(project: Path, tmp_path: Path) -> None:
    folder, ran = begun(project), tmp_path / "ran"
    for name in ("training_args.bin", "pytorch_model.bin.py", "adapter_model.bin"):
        put(folder / "checkpoints" / "checkpoint-2", name, Acts(ran))
    assert gone_on_with(folder).steps == 4
    assert not ran.exists()


def test_a_sharded_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    state = {"weights": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)}
    state |= {"optimizer": {"lr": 0.1, "betas": (0.9, 0.999), "steps": [1, 2], "none": None}}
    sharded.save(state, storage_writer=sharded.FileSystemWriter(str(tmp_path)), no_dist=True)
    found: Any = {"weights": torch.zeros(2, 3), "half": torch.zeros(2, dtype=torch.bfloat16)}
    found |= {"optimizer": {"lr": 0.0, "betas": (0.0, 0.0), "steps": [0, 0], "none": 1}}
    with plainly(tmp_path):
        sharded.load(found, storage_reader=FileSystemReader(str(tmp_path)), no_dist=True)
    assert torch.equal(found["weights"], state["weights"])
    assert torch.equal(found["half"], state["half"])
    assert found["optimizer"] == state["optimizer"]


def test_a_sharded_checkpoint_runs_nothing(tmp_path: Path) -> None:
    """Neither by the list of its tensors nor by a value in it."""
    ran = tmp_path / "ran"
    for name, acts in (("list", {}), ("value", {"acts": Acts(ran)})):
        folder = tmp_path / name
        state: Any = {"weights": torch.zeros(2), "value": 3}
        if acts:
            state["value"] = acts
        sharded.save(state, storage_writer=sharded.FileSystemWriter(str(folder)), no_dist=True)
        if not acts:
            (folder / ".metadata").write_bytes(pickle.dumps(Acts(ran)))
        ran.unlink(missing_ok=True)  # `save` may have looked at what it saved
        found: Any = {"weights": torch.zeros(2), "value": {"acts": 0} if acts else 0}
        with pytest.raises(UserError, match="the run cannot go on from it"), plainly(folder):
            sharded.load(found, storage_reader=FileSystemReader(str(folder)), no_dist=True)
        assert not ran.exists()
