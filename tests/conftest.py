"""Fixtures for all tests: the recorded material beside the checkout, and small models of several architectures."""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "LORAWEAVE_CACHE" not in os.environ:  # what tests encode is nobody else's
    os.environ["LORAWEAVE_CACHE"] = tempfile.mkdtemp(prefix="loraweave-tests-")
    atexit.register(shutil.rmtree, os.environ["LORAWEAVE_CACHE"], ignore_errors=True)
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # pytest-xdist fills the cores; two pools of threads get in each other's way

import pytest
import torch
from counts import (
    count,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_runtest_logreport,
    pytest_runtest_setup,
    pytest_runtest_teardown,
    pytest_terminal_summary,
)
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

__all__ = [
    "count",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_runtest_logreport",
    "pytest_runtest_setup",
    "pytest_runtest_teardown",
    "pytest_terminal_summary",
]


def pytest_collection_finish() -> None:
    """Search for garbage less often, and not among what the libraries are made of: a fifth of the suite's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


SHARED = Path(__file__).resolve().parents[2] / "shared"

ARCHITECTURES: dict[str, dict] = {
    "llama": {"num_key_value_heads": 2, "intermediate_size": 48},
    "qwen2": {"num_key_value_heads": 2, "intermediate_size": 48},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "mixtral": {"num_key_value_heads": 2, "intermediate_size": 48, "num_local_experts": 4},
}

OWN_HEADS: dict[str, dict] = {  # that are more than a product with the output embeddings
    "bert": {"intermediate_size": 48, "is_decoder": True},
    "modernbert-decoder": {"intermediate_size": 48},
    "recurrent_gemma": {"intermediate_size": 48, "lru_width": 32, "block_types": ["recurrent", "attention"]},
}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded references, real data and real checkpoints that may stand beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED.name}/ beside the checkout: nothing to compare with")
    return SHARED


@pytest.fixture
def tiny_model() -> Callable[..., nn.Module]:
    """tiny_model(architecture) -> a random causal model of two layers, the same one at every call, in eval mode."""

    def build(architecture: str = "llama", dtype: torch.dtype = torch.float32) -> nn.Module:
        sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        if architecture == "gpt2":
            sizes = {"vocab_size": 64}
        extra = {"max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        if architecture == "gpt2":
            extra.pop("max_position_embeddings")
        config = AutoConfig.for_model(architecture, **sizes, **extra, **(ARCHITECTURES | OWN_HEADS)[architecture])
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).to(dtype).eval()

    return build
