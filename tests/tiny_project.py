"""A whole small project in a folder: a random Llama with a tokenizer, tasks of three kinds and their data.

For tests of what is built on top of models and tasks, so that they need nothing beside the checkout.
"""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers import decoders as token_decoders
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHOICE_TASK = """\
task: parity
dataset_path: json
dataset_kwargs:
  data_files: {train: parity_train.jsonl, test: parity_test.jsonl}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{number}} is"
doc_to_choice: ["even", "odd"]
doc_to_target: "{{label}}"
metric_list:
  - metric: acc
metadata: {version: 1.0}
"""

WRITING_TASK = """\
task: double
dataset_path: json
dataset_kwargs:
  data_files: {train: double_train.jsonl, test: double_test.jsonl}
training_split: train
test_split: test
output_type: generate_until
doc_to_text: "Double {{word}}:"
doc_to_target: "{{word}}{{word}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
filter_list:
  - name: clean
    filter:
      - function: remove_whitespace
      - function: take_first
metric_list:
  - metric: exact_match
metadata: {version: 2.0}
"""


TASKS = ["parity.yaml", "double.yaml", {"task": "notes.jsonl", "test": "notes_test.jsonl"}]
"""The `tasks:` of a run on the project."""


def write_project(folder: Path) -> Path:
    """Fill `folder` with base/, parity.yaml, double.yaml, notes.jsonl and their data; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_base(folder / "base")
    (folder / "parity.yaml").write_text(CHOICE_TASK)
    (folder / "double.yaml").write_text(WRITING_TASK)
    parity = [{"number": n, "label": ("even", "odd")[n % 2]} for n in range(60)]
    double = [{"word": a + b} for a in "abcdefgh" for b in "xyz"]
    notes = [{"prompt": f"Note {n}:", "completion": f" remember {n % 3}"} for n in range(30)]
    _write_lines(folder / "parity_train.jsonl", parity[:44])
    _write_lines(folder / "parity_test.jsonl", parity[44:])
    _write_lines(folder / "double_train.jsonl", double[:16])
    _write_lines(folder / "double_test.jsonl", double[16:])
    _write_lines(folder / "notes.jsonl", notes[:20])
    _write_lines(folder / "notes_test.jsonl", notes[20:])
    return folder


def write_run_file(folder: Path) -> Path:
    """A run of a few steps on the project in `folder`, as run.yaml."""
    tasks = "".join(f"  - {json.dumps(task)}\n" for task in TASKS)
    train = "{max_steps: 6, max_length: 64, per_device_train_batch_size: 4, report_to: none, logging_steps: 1}"
    path = folder / "run.yaml"
    path.write_text(f"model: base\nmethod: lora\ntasks:\n{tasks}mixture: {{strategy: equal}}\ntrain: {train}\n")
    return path


def write_base(folder: Path, seed: int = 0) -> None:
    """A random Llama of some 20 thousand parameters that reads bytes, and its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def byte_llama() -> LlamaForCausalLM:
    """A random Llama for `byte_tokenizer`, the same one at every call."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(byte_tokenizer()), **sizes, **ids))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, after <pad>, <s> and </s>."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = token_decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=64
    )


def _write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
