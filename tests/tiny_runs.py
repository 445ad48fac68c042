"""For every method a finished run of the small project whose adapter has random tensors: as a training would leave it,
with every gate, transform and anchor away from its first value."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from tiny_project import TASKS

from loraweave.bases import fingerprint, load_base
from loraweave.files import write_json
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import RunFolder
from loraweave.runs.methods import METHODS, choose_method

NAMES = ["parity", "double", "notes"]
SMALL = {"r": 4}


def configuration(name: str) -> Any:
    """A method's PEFT configuration for the project's tasks."""
    return choose_method({"name": name, **SMALL}).peft_config(NAMES)


ADAPTERS = [name for name, method in METHODS.items() if method.config_class is not None]
BESIDE_BLOCKS = ["mtlora"]
ROUTED = [
    name for name in ADAPTERS if getattr(configuration(name), "depends_on_input", False) and name not in BESIDE_BLOCKS
]
BY_TASK = [name for name in ADAPTERS if getattr(configuration(name), "needs_tasks", False)]
EXACT = [name for name in ADAPTERS if name not in (*ROUTED, *BESIDE_BLOCKS, "dora")]


def whole_run(project: Path, folder: Path) -> Path:
    """The folder of a run that ended, in which all of the project's base was trained."""
    run = RunFolder(folder)
    run.path.mkdir(parents=True)
    values = {"model": "base", "method": "full", "tasks": list(TASKS), "train": {"max_length": 64}}
    config = RunConfig.model_validate({**values, "base_dir": str(project)})
    config.model = str(project / "base")
    config.save(run.config)
    model, tokenizer = load_base(config.model)
    write_json(run.base, {"name": config.model, "fingerprint": fingerprint(model)})
    write_json(run.summary, {"adapter": "model", "method": "full", "mixture": []})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    model.save_pretrained(run.model)
    tokenizer.save_pretrained(run.model)
    return folder


def random_run(
    project: Path,
    method: Any,
    folder: Path,
    tasks: Sequence[Any] = TASKS,
    base: Path | None = None,
    size: float = 0.2,
) -> Path:
    """The folder of a run that ended, with a random adapter of some size on the project's base or another."""
    name = base or project / "base"
    run = RunFolder(folder)
    run.path.mkdir(parents=True)
    values = {"model": "base", "method": method, "tasks": list(tasks), "train": {"max_length": 64}}
    config = RunConfig.model_validate({**values, "base_dir": str(project)})
    config.model = str(name)
    config.save(run.config)
    model, _ = load_base(name)
    write_json(run.base, {"name": config.model, "fingerprint": fingerprint(model)})
    chosen = choose_method(config.method)
    write_json(run.summary, {"adapter": "adapter", "method": chosen.name, "mixture": []})
    peft_config = chosen.peft_config(NAMES)
    model = get_peft_model(model, peft_config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (".weave_" in name or ".lora_" in name) and "magnitude" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    model.save_pretrained(run.adapter)
    (run.adapter / "base.json").write_bytes(run.base.read_bytes())
    return folder
