"""Real training steps, and the most bytes that their tensors held: what the estimate is checked against."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from loraweave.bases.load import EMBEDDED
from loraweave.data.plan import validation_plan
from loraweave.data.rows import TaskTokens, TokenRows
from loraweave.runs.adapting import adapted
from loraweave.runs.methods import choose_method
from loraweave.runs.settings import build_arguments
from loraweave.training.trainer import MultiTaskTrainer


def peak_of_training(
    config: PretrainedConfig, method: Any, task_names: Sequence[str], train: dict[str, Any], dtype: torch.dtype
) -> int:
    """Train two steps on full rows whose every position is scored.

    Args:
        config: of the base, which gets random weights.
        method: as in a run file.
        task_names: the tasks; rows take turns.
        train: the run file's section.
        dtype: of the base's weights.

    Returns:
        Bytes: weights, and the most that was allocated beyond them at any time, optimizer states included.
    """
    torch.manual_seed(0)
    base, chosen = AutoModelForCausalLM.from_config(config, dtype=dtype), choose_method(method)
    with (
        tempfile.TemporaryDirectory() as folder,
        adapted(base, chosen, task_names, 0, keep_base=False) as model,
    ):
        args = build_arguments({**train, "max_steps": 2, "report_to": "none"}, 0, Path(folder))
        length = args.max_length
        count = 2 * args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        ids = torch.randint(10, config.vocab_size, (count, length)).tolist()
        parts = [TaskTokens.of([{"input_ids": row, "labels": row}]) for row in ids]
        rows = TokenRows(parts, [i % len(task_names) for i in range(count)])
        plan = validation_plan(rows, length, packing=False)
        trainer = MultiTaskTrainer(
            model,
            args,
            AutoTokenizer.from_pretrained(EMBEDDED),
            plan,
            None,
            task_names,
            losses=chosen.losses,
        )
        weights = {id(p): p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers())}
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            trainer.train()
        trainer.release()
    return sum(weights.values()) + most_held(profiler)


def most_held(profiler: Any) -> int:
    """The peak of all allocations and releases that the allocator reported, added up."""
    held = most = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
