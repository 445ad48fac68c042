"""Where models run, and what is said where that is not where one would think."""

import warnings

import pytest
import torch

from loraweave.bases import device
from loraweave.cli.output import quieten
from loraweave.errors import Notice


@pytest.fixture
def mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))


def test_cuda_is_used_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device() == torch.device("cuda")


def test_an_accelerator_that_is_not_used_is_named(mps: None) -> None:
    with pytest.warns(Notice, match="this runs on the CPU: of accelerators only CUDA is used, not this machine's mps"):
        assert device() == torch.device("cpu")


def test_a_command_says_it_once_and_nothing_that_libraries_warn_of(mps: None, capsys: pytest.CaptureFixture) -> None:
    with warnings.catch_warnings():
        quieten()
        for _ in range(2):
            device()
        warnings.warn("a library's", UserWarning, stacklevel=1)
    said = capsys.readouterr().err
    assert said.count("note: this runs on the CPU") == 1
    assert "library" not in said
