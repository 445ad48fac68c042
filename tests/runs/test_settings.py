"""Training arguments as a run gets them."""

from pathlib import Path

import pytest
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
