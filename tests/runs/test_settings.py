"""Training arguments as a run gets them."""

import warnings
from pathlib import Path

import pytest
import torch
from trl import SFTConfig

from loraweave.runs.settings import build_arguments


def test_a_process_takes_one_device_whatever_it_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = SFTConfig.__post_init__

    def on_a_host_with_two_gpus(self: SFTConfig) -> None:
        prepare(self)
        self._n_gpu = 2

    monkeypatch.setattr(SFTConfig, "__post_init__", on_a_host_with_two_gpus)
    args = build_arguments({"per_device_train_batch_size": 4}, 0, tmp_path)
    assert args.n_gpu == 1
    assert args.train_batch_size == 4


def test_an_accelerator_that_is_not_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    with pytest.warns(UserWarning, match="this runs on the CPU.*not this machine's mps"):
        build_arguments({}, 0, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        build_arguments({"use_cpu": True}, 0, tmp_path)
