"""Adapters that come and go on one base leave nothing behind."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults.victims import METHODS, Victims
from transformers import AutoModelForCausalLM

from loraweave.runs.adapting import take_off
from loraweave.runs.attaching import attach

Count = Callable[[str, str], None]

CYCLES = 300
TOKENS = torch.arange(3, 13)[None]


def live() -> tuple[int, int]:
    """How many tensors and modules there are."""
    gc.collect()
    alive = gc.get_objects()
    return sum(isinstance(one, torch.Tensor) for one in alive), sum(isinstance(one, torch.nn.Module) for one in alive)


@pytest.mark.parametrize("cycles", [26, pytest.param(CYCLES, marks=pytest.mark.long)])
def test_three_hundred_adapter_life_cycles(victims: Victims, count: Count, cycles: int) -> None:
    folders: list[Path] = [victims.whole(method)[0] / "adapter" for method in METHODS if method != "full"]
    base = AutoModelForCausalLM.from_pretrained(victims.project / "base").eval()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    with torch.no_grad():
        plain = base(TOKENS).logits
        answers: dict[Path, torch.Tensor] = {}
        settled: tuple[int, int] | None = None
        for cycle in range(cycles):
            folder = folders[cycle % len(folders)]
            model = attach(base, folder)
            logits = model(input_ids=TOKENS, tasks="parity").logits
            assert torch.equal(logits, answers.setdefault(folder, logits))
            base = take_off(model)
            del model, logits
            count("an adapter attached, used and taken off", "nothing left behind")
            if cycle == 20:
                settled = live()
        assert live() == settled
        assert torch.equal(base(TOKENS).logits, plain)
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
