"""What is served: nano with a random adapter of each of a few methods, for five tasks, and their prompts."""

import itertools
from pathlib import Path

import torch
from peft import get_peft_model

from loraweave.bases import fingerprint, load_base
from loraweave.export import export
from loraweave.files import write_json
from loraweave.runs.methods import choose_method

TASKS = ["animals", "weather", "letters", "stories", "history"]
METHODS = ["rlora", "mtllora", "own"]
EXPORTED = "lora"
OPENINGS = ["The cat sat on", "It rained all day and", "Dear sir, I write", "Once upon a time", "In the year of"]
PROMPTS = [f"{opening} {more}" for opening, more in itertools.product(OPENINGS, ["the", "a", "and then", "of"])]


def made(folder: Path, base: str = "nano") -> dict[str, Path]:
    """The folders of adapters on a base, by method; and of a LoRA exported from `own`, for its first task."""
    found = {}
    for number, name in enumerate(METHODS):
        model, _ = load_base(base)
        record = {"name": base, "fingerprint": fingerprint(model)}
        model = get_peft_model(model, choose_method({"name": name, "r": 8}).peft_config(TASKS, model))
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for key, tensor in model.named_parameters():
                if ".weave_" in key:
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.02)
        found[name] = folder / name
        model.save_pretrained(str(found[name]))
        write_json(found[name] / "base.json", record)
    (lora,) = export(found["own"], "lora", folder / "out", tasks=TASKS[:1])
    return {**found, EXPORTED: lora.path}


def names(method: str, folder: Path) -> list[str]:
    """The models of a server on a folder that the adapter answers."""
    if method == EXPORTED:
        return [folder.name]
    return [f"{folder.name}:{task}" for task in TASKS]
