"""Loads plain LoRAs with PEFT and nothing else, and keeps their logits; run in a process of its own.

Arguments: a base's folder, a file with token ids, and folders of adapters; writes logits.pt into each.
"""

import importlib.abc
import sys
from pathlib import Path

import torch


class Refuse(importlib.abc.MetaPathFinder):
    """Makes any import of this project's package fail."""

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "loraweave":
            raise AssertionError("loraweave was imported")


sys.meta_path.insert(0, Refuse())

from peft import PeftModel  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

base, ids, *folders = sys.argv[1:]
for folder in folders:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if (Path(folder) / "config.json").is_file():  # merged
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        model = PeftModel.from_pretrained(model, folder)
    with torch.no_grad():
        torch.save(model.eval()(input_ids=torch.load(ids)).logits, Path(folder) / "logits.pt")
assert "loraweave" not in sys.modules
