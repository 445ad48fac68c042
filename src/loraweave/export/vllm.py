"""Whether vLLM will take an exported LoRA, said before anything is written, and the line that serves it."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from loraweave.adapters.plain import PlainLora

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` may be."""

REFUSED = "vLLM would refuse it: "
"""How a note of an export begins that says why."""

WITHOUT_LORA = frozenset(
    "bloom cohere2_moe dbrx falcon falcon_mamba gemma3n gemma3n_text gpt2 gptj hrm_text kimi_linear mamba mamba2 "
    "mimo_v2_flash mpt stablelm zamba2".split()
)
"""Kinds of base whose classes in vLLM 0.32 take no LoRA."""

WITH_HEAD = frozenset(
    "apertus exaone4 exaone_moe falcon_h1 granite granite_swa granitemoe granitemoe_swa granitemoehybrid "
    "granitemoeshared hyperclovax jamba lfm2 lfm2_moe llama mixtral nemotron nemotron_h phimoe qwen3 qwen3_5 "
    "qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_moe".split()
)
"""Kinds of base whose classes there name the head among the embeddings that a LoRA may adapt."""


def problems(plain: PlainLora, model_type: str) -> list[str]:
    """Why vLLM would refuse a plain LoRA; nothing where it takes it.

    Args:
        model_type: of the base's configuration.
    """
    found = []
    if plain.rank > RANKS[-1]:
        found.append(f"rank {plain.rank} is above its limit of {RANKS[-1]}: add --max-rank {RANKS[-1]}")
    if model_type in WITHOUT_LORA:
        found.append(f"it takes no LoRA on a {model_type} base: export --to merged")
    elif "lm_head" in plain.pairs and model_type not in WITH_HEAD:
        found.append(f"it takes no LoRA on the head (lm_head) of a {model_type} base: export --to merged")
    return found


def serve_line(base: str, modules: Mapping[str, Path], rank: int, revision: str | None = None) -> str:
    """The command that serves LoRAs side by side.

    Args:
        base: name or folder. modules: their folders by the names under which they are asked for. rank: the largest.
        revision: of the base on the hub.
    """
    words = ["vllm", "serve", base, *(["--revision", revision] if revision else []), "--enable-lora"]
    words += ["--max-lora-rank", str(next(r for r in RANKS if r >= rank)), "--max-loras", str(len(modules))]
    return shlex.join([*words, "--lora-modules", *(_module(name, str(path)) for name, path in modules.items())])


def _module(name: str, path: str) -> str:
    """NAME=PATH, or as JSON where the first = is the name's own, or a comma stands there, by which vLLM tells them."""
    plain = "=" not in name and "," not in name + path
    return f"{name}={path}" if plain else json.dumps({"name": name, "path": path}, ensure_ascii=False)
