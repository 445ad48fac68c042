"""The card of an export: what it is, how near it is to the adapter, how it is loaded and served."""

from pathlib import Path

import yaml

from loraweave.card import base_arguments
from loraweave.export import vllm
from loraweave.export.record import Export, plain_difference
from loraweave.export.source import Source
from loraweave.files import write_text

_LOAD = {
    "lora": """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, "THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")
```
""",
    "merged": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")
```

    vllm serve "THIS FOLDER"
""",
    "gguf": """Beside a GGUF file of the base, in any of llama.cpp's programs:

    llama-cli -m BASE.gguf --lora adapter.gguf
""",
    "gguf-model": """In any of llama.cpp's programs:

    llama-cli -m model.gguf
""",
}
_WHAT = {
    "gguf": "A LoRA of rank {rank} for llama.cpp, beside `{base}`",
    "gguf-model": "A model for llama.cpp: `{base}` with an adapter merged into it",
    "merged": "Full weights: `{base}` with an adapter merged into it",
    "lora": "A plain LoRA of rank {rank} (`lora_alpha` {rank}) for `{base}`",
}
_HEADS = {
    "averaged": " The adapter weighs its heads by each token; here they have their mean weights on this task's data.",
    "uniform": " The adapter weighs its heads by each token; here all heads weigh alike.",
    "as trained": "",
}


def write_card(export: Export, folder: Path, source: Source) -> None:
    """Write README.md into a folder that is not yet in its place."""
    front = {
        "base_model": source.base,
        "library_name": "transformers" if export.to == "merged" else "peft" if export.to == "lora" else "gguf",
        "pipeline_tag": "text-generation",
        "tags": sorted({"loraweave", source.method, *(["lora"] if export.to == "lora" else [])}),
    }
    parts = [f"---\n{yaml.safe_dump(front, sort_keys=True)}---\n", f"# {export.name}\n", _what(export, source)]
    near = plain_difference(export)
    parts += ["## How near it is to the adapter\n", f"{near[0].upper()}{near[1:]}.\n"]
    if table := _table(export):
        parts.append(table)
    parts += ["## How to load it\n", _LOAD[export.to].format(base=base_arguments(source.base, source.spec.revision))]
    if export.is_for_vllm:
        modules = {export.name: Path("THIS FOLDER")}
        line = vllm.serve_line(source.base, modules, export.rank or 1, source.spec.revision)
        parts.append(f"Served by vLLM:\n\n    {line}\n")
    parts += [f"- {note}\n" for note in export.notes]
    write_text(folder / "README.md", "\n".join(parts))


def _what(export: Export, source: Source) -> str:
    whose = f", for the task `{export.variant.task}`" if export.variant.task else ""
    text = _WHAT[export.to].format(rank=export.rank, base=source.base)
    text += f", made by `loraweave export` from an adapter of the method `{source.method}`{whose}."
    if export.kept < 1:
        text += f" Truncated from rank {export.native}: {export.kept:.2%} of the update's squared norm is left."
    return f"{text}{_HEADS[export.variant.heads]}\n"


def _table(export: Export) -> str:
    """Loss, KL and score of the adapter and the export, by task; nothing for one that is exact."""
    if export.exact:
        return ""
    lines = ["| task | loss | of the export | KL | score | of the export |", "| --- | --- | --- | --- | --- | --- |"]
    for task, found in export.differences.items():
        scores = [f"{score['score']:.3g} {score['unit']}".strip() for score in export.scores.get(task, ())] or ["–"] * 2
        lines.append(
            f"| {task} | {found.loss[0]:.4f} | {found.loss[1]:.4f} | {found.kl:.2g} | {scores[0]} | {scores[1]} |"
        )
    return "\n".join(lines) + "\n"
