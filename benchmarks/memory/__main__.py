"""Measure real training steps, estimate the same ones, and write `benchmarks/results/memory/cpu.json`."""

import json
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GPT2Config, LlamaConfig, PretrainedConfig, Qwen2Config

from loraweave.bases.load import EMBEDDED
from loraweave.estimate.fake_step import Batch
from loraweave.estimate.memory import StepPlan, estimate
from loraweave.runs.folder import environment
from loraweave.runs.settings import build_arguments

from . import outside
from .measured import peak_of_training

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "memory" / "cpu.json"
PAGE = ROOT / "docs" / "recipes.md"

MODELS: dict[str, PretrainedConfig] = {
    "nano": AutoConfig.from_pretrained(EMBEDDED),
    "0.5B": Qwen2Config(
        vocab_size=8192, hidden_size=896, intermediate_size=4864, num_hidden_layers=4, num_attention_heads=14,
        num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "7B": LlamaConfig(
        vocab_size=8192, hidden_size=4096, intermediate_size=11008, num_hidden_layers=1, num_attention_heads=32,
        num_key_value_heads=32,
    ),
    "gpt2": GPT2Config(vocab_size=8192, n_layer=4),
}  # fmt: skip
"""nano as it ships; four layers of Qwen2.5-0.5B, one of Llama-2-7B and four of GPT-2, with fewer words."""

F32, BF16 = torch.float32, torch.bfloat16
# model, method, rows, tokens, weights, compute in bfloat16, more of the `train` section
CASES: list[tuple[str, str, int, int, torch.dtype, bool, dict[str, Any]]] = [
    ("nano", "lora", 4, 128, F32, False, {}),
    ("nano", "lora", 16, 256, F32, False, {}),
    ("nano", "dora", 8, 256, F32, False, {}),
    ("nano", "alignlora", 8, 256, F32, False, {}),
    ("nano", "hydralora", 8, 256, BF16, True, {}),
    ("nano", "moelora", 8, 256, F32, False, {"gradient_checkpointing": True}),
    ("nano", "full", 8, 256, F32, False, {}),
    ("nano", "full", 8, 256, F32, True, {"gradient_checkpointing": True}),
    ("0.5B", "lora", 2, 128, F32, False, {}),
    ("0.5B", "lora", 2, 512, BF16, True, {}),
    ("0.5B", "rlora", 4, 256, F32, False, {}),
    ("0.5B", "rlora", 4, 256, F32, False, {"gradient_checkpointing": True}),
    ("0.5B", "rlora", 2, 256, F32, True, {}),
    ("0.5B", "mtllora", 2, 256, BF16, True, {}),
    ("0.5B", "mtllora", 2, 256, BF16, True, {"gradient_checkpointing": True}),
    ("0.5B", "multilora", 2, 256, BF16, True, {"gradient_accumulation_steps": 2}),
    ("0.5B", "mlora", 1, 1024, F32, False, {}),
    ("0.5B", "full", 2, 256, F32, False, {"optim": "adamw_torch"}),
    ("7B", "hydralora", 1, 256, F32, False, {}),
    ("7B", "multilora", 1, 256, BF16, True, {}),
    ("gpt2", "lora", 2, 256, F32, False, {}),
    ("gpt2", "rlora", 2, 256, F32, False, {"gradient_checkpointing": True}),
]
TASKS = ["first", "second", "third"]


def compare(case: tuple[str, str, int, int, torch.dtype, bool, dict[str, Any]]) -> dict[str, Any]:
    """Bytes measured and estimated for one case, in all and beyond the weights, and the ratios."""
    model, method, rows, tokens, weights, autocast, more = case
    train = {
        "per_device_train_batch_size": rows, "max_length": tokens, "bf16": autocast, "learning_rate": 1e-4,
        "packing": False, "eval_strategy": "no", "save_strategy": "no", "report_to": "none", **more,
    }  # fmt: skip
    measured = peak_of_training(MODELS[model], method, TASKS, train, weights)
    with tempfile.TemporaryDirectory() as folder:
        args = build_arguments(train, 0, Path(folder))
    plan = StepPlan(
        batch=Batch(rows, tokens, packed=False),
        validation=None,
        autocast=torch.bfloat16 if autocast else None,
        checkpointing=args.gradient_checkpointing,
        accumulate=args.gradient_accumulation_steps > 1,
        optim=args.optim.value,
    )
    memory = estimate(MODELS[model], method, TASKS, plan, "cpu", weights)
    held = memory.base + memory.adapter
    estimated = memory.training - memory.process
    return {
        "model": model,
        "method": method,
        "rows": rows,
        "tokens": tokens,
        "weights": str(weights).removeprefix("torch."),
        "autocast": autocast,
        "more": more,
        "measured": measured,
        "estimated": estimated,
        "ratio": round(estimated / measured, 4),
        "ratio_beyond_weights": round((estimated - held) / (measured - held), 4),
    }


def table(results: Mapping[str, Any]) -> str:
    """The measurements in Markdown."""
    lines = [
        "| model | method | rows × tokens | weights, products | | measured | estimate: of it | beyond the weights |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    short = {"float32": "fp32", "bfloat16": "bf16"}
    for row in results["cases"]:
        types = f"{short[row['weights']]}, {'bf16' if row['autocast'] else short[row['weights']]}"
        more = ", ".join(key if value is True else f"{key} {value}" for key, value in row["more"].items())
        lines.append(
            f"| {row['model']} | {row['method']} | {row['rows']} × {row['tokens']} | {types} | {more} "
            f"| {row['measured'] / 1e6:,.0f} MB | {row['ratio']:.3f} | {row['ratio_beyond_weights']:.3f} |"
        )
    lines += ["", "| PEFT's run on an L40S | recorded | estimate: of it |", "| --- | --- | --- |"]
    lines += [f"| `{r['run']}` | {r['recorded'] / 1e9:.2f} GB | {r['ratio']:.3f} |" for r in results["outside"]]
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the results."""
    warnings.simplefilter("ignore", FutureWarning)
    rows = []
    for case in CASES:
        rows.append(compare(case))
        print(json.dumps(rows[-1]), flush=True)
    write({"environment": environment(0), "cases": rows, "outside": outside.compare()})


def write(results: dict[str, Any]) -> None:
    """Keep the results, and put their table between the page's marks."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    marks = "<!-- memory -->", "<!-- end of memory -->"
    inner = f"{marks[0]}\n{table(results)}\n{marks[1]}"
    page = PAGE.read_text(encoding="utf-8")
    page = re.sub(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", lambda _: inner, page, flags=re.DOTALL)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
