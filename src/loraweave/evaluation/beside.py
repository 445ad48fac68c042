"""What a score is worth: the untouched base and the most frequent answer, asked the same questions, beside it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from loraweave.adapters.config import changes_base
from loraweave.evaluation.mean import mean_rule
from loraweave.evaluation.outcomes import read_outcomes
from loraweave.evaluation.paired import PairedDifference, difference, mean_difference
from loraweave.evaluation.samples import Sample, majority
from loraweave.evaluation.scores import TaskScore


@contextmanager
def untouched(
    model: PreTrainedModel | PeftModel, load: Callable[[], PreTrainedModel]
) -> Iterator[PreTrainedModel | PeftModel]:
    """The base of a trained model: its adapter switched off; where more than that differs, what `load` gives."""
    config: Any = model.active_peft_config if isinstance(model, PeftModel) else None
    trained_beside = getattr(config, "bias", "none") != "none" or getattr(config, "layer_replication", None)
    changed = config is not None and (changes_base(config) or getattr(model, "weights_before", None))
    if config is not None and not trained_beside and not changed:
        with model.disable_adapter():
            yield model
    else:
        yield load()


def _is_of_right_answers(score: TaskScore) -> bool:
    examples = read_outcomes(score["outcomes"])
    return examples is not None and examples.binary


@dataclass(frozen=True)
class Beside:
    """A run's scores and what they are held against.

    Attributes:
        scores: of the run, by task.
        base: of the untouched base on the same examples; empty where it was not asked.
        samples, base_samples: of each task, what either said.
        forgetting: the same of what the run was not trained for; None where nothing of the kind was asked.
    """

    scores: Mapping[str, TaskScore]
    base: Mapping[str, TaskScore] = field(default_factory=dict)
    samples: Mapping[str, list[Sample]] = field(default_factory=dict)
    base_samples: Mapping[str, list[Sample]] = field(default_factory=dict)
    forgetting: "Beside | None" = None

    @property
    def majority(self) -> dict[str, float]:
        """In percent, by task, how often the most frequent answer is the right one; only of tasks with classes whose
        score is the share of right answers."""
        counted = [name for name in self.samples if name in self.scores and _is_of_right_answers(self.scores[name])]
        shares = {name: majority(self.samples[name]) for name in counted}
        return {name: share for name, share in shares.items() if share is not None}

    @property
    def differences(self) -> dict[str, PairedDifference]:
        """Score minus the base's, by task, paired by example."""
        return {name: difference(self.scores[name], self.base[name]) for name in self._asked_alike}

    @property
    def mean_difference(self) -> PairedDifference | None:
        """That of the mean over tasks; None where there is no mean, or not all of its tasks have a base."""
        counted = mean_rule(self.scores).counted
        if not counted or not set(counted) <= set(self._asked_alike):
            return None
        return mean_difference([self.scores[name] for name in counted], [self.base[name] for name in counted])

    @property
    def _asked_alike(self) -> list[str]:
        return [
            name
            for name, score in self.scores.items()
            if name in self.base and self.base[name]["requests"] == score["requests"]
        ]
