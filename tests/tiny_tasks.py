"""Real parts, made on the spot: tokenizers of three families, a tiny Llama behind lm-eval's HFLM, tasks in files."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "What is the capital of France?\nAnswer: Paris is the capital.",
    "the quick brown fox jumps over the lazy dog, again and again and again",
    "positive negative yes no maybe\nTopic: Business World Sports",
    "system user assistant You are brief. TURN_LEFT WALK RUN 0123456789",
] * 4


def learned(row: Any) -> list[int]:
    """The tokens of an encoded row that a loss is taken of."""
    from loraweave.data.encode import IGNORED

    return [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]


def make_tokenizer(kind: str) -> Any:
    """`bytes`: byte-level, no start token (GPT-2, Qwen); `start`: the same with one; `spaces`: SentencePiece's way
    of marking words, with a start token (Llama 2); `chat`: byte-level with a ChatML template; `inside`: as `spaces`,
    but a text does not begin with a space (Gemma); `ends` and `ends_bytes`: as `spaces` and `start`, with an end token
    behind every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    end = "<|im_end|>" if kind == "chat" else "</s>"
    special = ["<pad>", "<s>", end, "<|im_start|>"]
    tokenizer = Tokenizer(models.BPE())
    if kind in ("spaces", "ends", "inside"):
        scheme = "never" if kind == "inside" else "always"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
        alphabet = [chr(i) for i in range(32, 127)] + ["\n", "\t", "é", "ß"]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if kind not in ("bytes", "chat"):
        around = "<s> $A </s>" if kind.startswith("ends") else "<s> $A"
        special_tokens = [("<s>", 1), ("</s>", 2)]
        tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=special_tokens)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=None if kind in ("bytes", "chat") else "<s>",
        eos_token=end,
        pad_token="<pad>",
    )
    if kind == "chat":
        fast.chat_template = CHATML
    return fast


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Any]:
    return {kind: make_tokenizer(kind) for kind in ("bytes", "start", "spaces", "chat")}


@pytest.fixture(scope="session")
def scorers(tokenizers: dict[str, Any]) -> dict[str, Any]:
    """For each tokenizer lm-eval's HFLM over a tiny random Llama, which keeps the token ids that it was asked about."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import LlamaConfig, LlamaForCausalLM

    class Recording(HFLM):  # type: ignore[misc]
        def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> Any:
            self.asked = [(context, answer) for _, context, answer in requests]
            return super()._loglikelihood_tokens(requests, **kwargs)

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=512, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(shape)
    return {
        kind: Recording(pretrained=model, tokenizer=tokenizer, batch_size=8, device="cpu", max_length=256)
        for kind, tokenizer in tokenizers.items()
    }


TASK_YAML = """
task: topic
dataset_path: json
dataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}\\nTopic:"
doc_to_target: label
doc_to_choice: [Business, World, Sports]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""

ROWS = [
    {"text": f"number {i} of the news", "label": label} for i, label in enumerate(["Business", "World", "Sports"] * 14)
]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def write_task(tmp_path: Path) -> Callable[..., Path]:
    """Write a task's YAML and data into the test's folder: 30 training rows and 12 test rows unless told otherwise."""

    def write(
        yaml: str = TASK_YAML, train: list[Any] | None = None, test: list[Any] | None = None, name: str = "topic.yaml"
    ) -> Path:
        write_jsonl(tmp_path / "train.jsonl", ROWS[:30] if train is None else train)
        write_jsonl(tmp_path / "test.jsonl", ROWS[30:] if test is None else test)
        (tmp_path / name).write_text(yaml, encoding="utf-8")
        return tmp_path / name

    return write


def task_of_rows(folder: Path, rows: list[Any], **more: Any) -> Any:
    """The task of a file `mine.jsonl`, which is written with these rows; `more`: of its entry."""
    write_jsonl(folder / "mine.jsonl", rows)
    return task_of_file(folder, "mine.jsonl", **more)


def task_of_file(folder: Path, name: str, **more: Any) -> Any:
    """The task of a data file; `more`: of its entry."""
    from loraweave.tasks import load_tasks
    from loraweave.tasks.data_task import DataTask

    (task,) = load_tasks([{"task": name, **more}], folder)
    assert isinstance(task, DataTask)
    return task


def write_table(folder: Path, rows: list[dict[str, Any]], name: str = "mine.csv") -> str:
    """Write rows as a CSV or TSV with a byte-order mark, as spreadsheets do; returns its name."""
    with (folder / name).open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
        writer.writeheader()
        writer.writerows(rows)
    return name
