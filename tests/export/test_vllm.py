"""What vLLM takes, and the real thing: it serves every LoRA that is exported, and says what the adapter says.

`make vllm` puts vLLM's build for CPUs into an environment of its own, `.vllm`. Without it there is nothing to ask.
"""

import contextlib
import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from tiny_runs import BY_TASK, EXACT, NAMES, random_run
from transformers import AutoTokenizer

import loraweave
from loraweave.adapters.plain import PlainLora
from loraweave.bases import load_base, resolve_base
from loraweave.export import export
from loraweave.export.vllm import RANKS, problems, serve_line
from loraweave.runs.attaching import attach

PYTHON = Path(os.environ.get("LORAWEAVE_VLLM", Path(__file__).parents[2] / ".vllm")) / "bin" / "python"
TOKENS = 12
CLOSE = 1e-3
"""Log-probabilities, in nats, in float32 on both sides."""


@torch.no_grad()
def written(model: torch.nn.Module, ids: list[int]) -> tuple[list[int], list[float]]:
    """Tokens written greedily, and their log-probabilities."""
    tokens = list(ids)
    for _ in range(TOKENS):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    logs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    each = logs[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
    return tokens[len(ids) :], each[len(ids) - 1 :]


@pytest.mark.long
@pytest.mark.skipif(not (PYTHON.parent / "vllm").is_file(), reason="no vLLM: make vllm")
def test_vllm_says_what_the_adapter_says(project: Path, tmp_path: Path, request: pytest.FixtureRequest):
    base = Path(resolve_base("nano"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = [tokenizer(text).input_ids for text in ("What is the capital of France?", "3 plus 4 is")]
    adapters, wanted = {"base": ""}, {"base": [written(load_base(base, "float32")[0], ids) for ids in prompts]}
    rank = 1
    for name in EXACT:
        run = random_run(project, {"name": name, "r": 4}, tmp_path / "runs" / name, base=base, size=0.1)
        for made in export(run, "lora", tmp_path / "out" / name):
            key = "/".join([name, *([made.variant.task] if made.variant.task else [])])
            adapters[key], rank = str(made.path), max(rank, made.rank or 1)
            model = attach(load_base(base, "float32")[0], run / "adapter").eval()
            task = made.variant.task
            with loraweave.task(model, task) if task else contextlib.nullcontext():
                wanted[key] = [written(model, ids) for ids in prompts]
    assert len(adapters) == 1 + sum(len(NAMES) if name in BY_TASK else 1 for name in EXACT)
    asked = {
        "base": str(base),
        "rank": next(each for each in RANKS if each >= rank),
        "prompts": prompts,
        "adapters": adapters,
        "tokens": TOKENS,
    }
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    script = Path(__file__).parent / "vllm_says.py"
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    subprocess.run([PYTHON, script, tmp_path / "asked.json", tmp_path / "said.json"], check=True, env=environment)
    said, table = json.loads((tmp_path / "said.json").read_text()), {}
    for key, expected in wanted.items():
        furthest = 0.0
        for (tokens, logs), found in zip(expected, said[key], strict=True):
            assert found["tokens"] == tokens, key
            pairs = zip(logs, found["logprobs"], strict=True)
            furthest = max(furthest, *(abs(one - other) for one, other in pairs))
        assert furthest < CLOSE, key
        table[key] = {"greedy tokens": "equal", "largest difference of a log-probability": furthest}
    assert all(said[key] != said["base"] for key in adapters if key != "base")
    if path := request.config.getoption("--write-vllm", None):
        Path(path).write_text(
            json.dumps({"base": "nano", "tokens written": TOKENS, "adapters": table}, indent=2) + "\n"
        )


@pytest.mark.parametrize(
    ("layer", "rank", "model_type", "words"),
    [
        ("model.layers.0.q_proj", 8, "llama", []),
        ("lm_head", 8, "llama", []),
        ("lm_head", 8, "qwen2", ["it takes no LoRA on the head (lm_head) of a qwen2 base: export --to merged"]),
        ("model.layers.0.q_proj", 8, "gpt2", ["it takes no LoRA on a gpt2 base: export --to merged"]),
        ("model.layers.0.q_proj", 600, "qwen2", ["rank 600 is above its limit of 512: add --max-rank 512"]),
    ],
)
def test_what_vllm_would_refuse_is_known_before(layer: str, rank: int, model_type: str, words: list[str]):
    plain = PlainLora({layer: (torch.zeros(rank, 4), torch.zeros(4, rank))}, rank, rank)
    assert problems(plain, model_type) == words


def test_vllm_is_told_names_and_paths_as_they_are():
    modules = {"a": Path("out/r=16"), "r=16": Path("out/a"), "b": Path("one,two")}
    *_, first, second, third = shlex.split(serve_line("base", modules, 8))
    assert first == "a=out/r=16"
    assert [json.loads(each) for each in (second, third)] == [
        {"name": "r=16", "path": "out/a"},
        {"name": "b", "path": "one,two"},
    ]
