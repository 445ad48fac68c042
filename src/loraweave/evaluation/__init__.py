"""lm-eval over an adapted model, task by task: the same prompts as in training, the base loaded once."""

from loraweave.evaluation.mean import left_out_of_mean, macro_average
from loraweave.evaluation.scores import TaskScore, interval
from loraweave.evaluation.scoring import evaluate

__all__ = ["TaskScore", "evaluate", "interval", "left_out_of_mean", "macro_average"]
