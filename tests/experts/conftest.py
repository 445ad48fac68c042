"""A small base in a folder, and LoRAs of it that PEFT alone has made and saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_project import write_base
from transformers import AutoModelForCausalLM

from loraweave.experts.library import ExpertLibrary

RANDOM = {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM"}
KINDS: dict[str, dict[str, Any]] = {
    "small": {"r": 2, "lora_alpha": 7, "target_modules": ["q_proj", "v_proj"]},
    "wide": {"r": 5, "lora_alpha": 3, "target_modules": "all-linear", "use_rslora": True},
    "patterns": {
        "r": 3,
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"layers.0.self_attn.q_proj": 6},
        "alpha_pattern": {"layers.1.mlp.down_proj": 1},
    },
}


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts") / "base"
    write_base(folder)
    return folder


@pytest.fixture(scope="session")
def make_lora(base_folder: Path) -> Callable[..., Path]:
    """make_lora(folder, seed, **settings) -> the folder of a random LoRA of the base, saved by PEFT."""

    def make(
        folder: Path, seed: int = 0, base: Path = base_folder, save_embedding_layers: Any = "auto", **settings: Any
    ) -> Path:
        torch.manual_seed(seed)
        settings = {
            "r": 2,
            "target_modules": ["q_proj"],
            "init_lora_weights": False,
            "task_type": "CAUSAL_LM",
        } | settings
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
        model.save_pretrained(str(folder), save_embedding_layers=save_embedding_layers)
        return folder

    return make


@pytest.fixture(scope="session")
def loras(make_lora: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """LoRAs of different ranks, scalings and layers."""
    folder = tmp_path_factory.mktemp("loras")
    return {name: make_lora(folder / name, seed, **kind) for seed, (name, kind) in enumerate(KINDS.items())}


@pytest.fixture
def library(base_folder: Path, loras: dict[str, Path], tmp_path: Path) -> ExpertLibrary:
    """A library of all of them."""
    library = ExpertLibrary.create(tmp_path / "library", str(base_folder))
    for name, folder in loras.items():
        library.add(folder, name, description=f"the {name} one")
    return library
