"""`loraweave train` against the bare script, in turn: the same rows, LoRA, batch size, optimizer and precision."""

import io
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from loraweave.bases.load import EMBEDDED
from loraweave.data.prepare import load_data
from loraweave.runs.config import RunConfig
from loraweave.runs.settings import has_fast_bfloat16
from loraweave.training.run import train

from .timing import ratios

HERE = Path(__file__).parent
EXAMPLES = 100  # of each of the quickstart's seven tasks
SHARED = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "max_length": 256, "learning_rate": 1e-3}


def compare_training(rounds: int = 3) -> dict[str, Any]:
    """Seconds of the training loop, one epoch of 700 examples, one to a row, with nano.

    Returns:
        tokens, and for the script and for `loraweave train` with LoRA and with R-LoRA: seconds and ratio to the script.
    """
    times: dict[str, list[float]] = {"bare script": [], "loraweave, lora": [], "loraweave, rlora": []}
    with tempfile.TemporaryDirectory() as folder:
        run_file = HERE.parents[1] / "src" / "loraweave" / "quickstart" / "run.yaml"
        config = RunConfig.load(run_file, [f"mixture={{strategy: equal, total: {7 * EXAMPLES}}}"])
        settings = {**SHARED, "packing": False, "bf16": has_fast_bfloat16(), "logging_steps": 10}
        config = config.model_copy(
            update={"train": {**settings, "eval_strategy": "no", "save_strategy": "no", "report_to": "none"}}
        )
        rows = Path(folder) / "rows.jsonl"
        tokens = write_rows(config, rows)
        for turn in range(rounds):
            command = [
                sys.executable,
                str(HERE / "bare_trl.py"),
                str(EMBEDDED),
                str(rows),
                folder,
                json.dumps(settings),
            ]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            times["bare script"].append(json.loads(printed.strip().splitlines()[-1])["seconds"])
            for name, method in (
                ("loraweave, lora", {"name": "lora", "r": 8}),
                ("loraweave, rlora", {"name": "rlora", "r": 2, "num_heads": 4}),
            ):
                one = config.model_copy(update={"method": method})
                result = train(one, Path(folder) / f"{method['name']}{turn}", console=Console(file=io.StringIO()))
                assert result.tokens == tokens, (result.tokens, tokens)
                times[name].append(result.seconds)
    return {"tokens": tokens, "seconds": {n: round(statistics.median(t), 2) for n, t in times.items()}} | {
        "to_script": ratios(times, "bare script")
    }


def write_rows(config: RunConfig, path: Path) -> int:
    """The rows that `config` trains on, for a script that knows no tasks; returns their tokens."""
    from loraweave.bases import load_base

    _, tokenizer = load_base("nano", "float32")
    data = load_data(
        config.load_tasks(), tokenizer, SHARED["max_length"], config.mixture, config.seed, Console(quiet=True)
    )
    tokens = 0
    with path.open("w", encoding="utf-8") as file:
        for example in data.epoch(0):
            row = data.training.joined([int(example)])
            ids, labels = row["input_ids"].tolist(), row["labels"].tolist()
            file.write(
                json.dumps({"input_ids": ids, "completion_mask": [int(label != -100) for label in labels]}) + "\n"
            )
            tokens += len(ids)
    return tokens
