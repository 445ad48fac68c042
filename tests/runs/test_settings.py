"""Training arguments as a run gets them."""

import warnings
from pathlib import Path

import pytest
import torch
from trl import SFTConfig

from loraweave.errors import UserError
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


@pytest.mark.parametrize(
    "given",
    [{"eos_token": "<|im_end|>"}, {"pad_token": "<pad>"}, {"pad_to_multiple_of": 8}, {"length_column_name": "n"}],
)
def test_what_data_that_is_encoded_already_would_not_follow_cannot_be_set(tmp_path: Path, given: dict) -> None:
    """TRL gives the tokenizer another end after the rows were made with its own, and would save it with the adapter."""
    with pytest.raises(UserError, match=f"train.{next(iter(given))} cannot be set: "):
        build_arguments(given, 0, tmp_path)
