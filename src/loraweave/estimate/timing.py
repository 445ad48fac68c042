"""How long a run would take, from a few of its steps on this machine."""

import tempfile
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from loraweave.bases import Base
from loraweave.data.mixture import Realised
from loraweave.errors import UserError
from loraweave.runs.config import RunConfig
from loraweave.shapes import read_metrics
from loraweave.training.run import train

STEPS = 5
"""Steps that are taken; the first, in which much happens for once, does not count."""
SHORTEST = 1e-3
"""Seconds: what the metrics of a run tell apart."""


@dataclass(frozen=True)
class Timing:
    """What some steps took.

    Attributes:
        steps: how many were timed.
        tokens_per_second: trained on in them, padding left out.
        seconds: that the whole run's training steps would take at that rate; validation, saving and scoring not among
            them.
    """

    steps: int
    tokens_per_second: float
    seconds: float


def measure(config: RunConfig, realised: list[Realised], base: Base | None = None) -> Timing:
    """Take the first steps of a run, in a folder that is thrown away, and reckon from their time.

    Args:
        config: the run file.
        realised: what each task would get in the whole run.
        base: model and tokenizer, if already loaded.

    Raises:
        UserError: the tokens of the whole run are not known; or whatever `train` raises.
    """
    if not realised:
        raise UserError("--measure: data and tokenizer must be at hand, so that the tokens of the whole run are known")
    few: dict[str, Any] = {"max_steps": STEPS, "logging_strategy": "steps", "logging_steps": 1, "report_to": "none"}
    few |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    with tempfile.TemporaryDirectory() as aside:
        short = config.model_copy(update={"train": {**config.train, **few}})
        done = train(short, Path(aside) / "run", base=base, console=Console(file=StringIO()))
        lines = [line for line in read_metrics(done.folder / "metrics.jsonl") if "loss" in line]
    before = lines[0] if len(lines) > 1 else {"seconds": 0.0, "tokens": 0}  # a run of one step
    seconds, tokens = (lines[-1][key] - before[key] for key in ("seconds", "tokens"))
    rate = tokens / max(seconds, SHORTEST)
    return Timing(max(1, len(lines) - 1), rate, sum(row["tokens"] for row in realised) / rate)
