"""The search for each method's learning rate: which rates are tried, and which one is taken.

Only validation examples judge a rate: test examples are for the runs at the rate that was chosen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loraweave.comparison.records import Search, Trial
from loraweave.errors import UserError
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import RunFolder
from loraweave.runs.settings import DEFAULTS
from loraweave.shapes import read_metrics

MOST_BEYOND = 4  # rates on one side: a loss that falls and falls must not keep a search going for ever


@dataclass(frozen=True)
class Rate:
    """A learning rate, or a factor of each method's own."""

    value: float
    factor: bool

    def of(self, own: float) -> float:
        """The learning rate for a method whose own is `own`."""
        return self.value * own if self.factor else self.value


def parse_rates(given: Sequence[str]) -> list[Rate]:
    """`"1e-3"` is a learning rate for all methods, `"0.5x"` half of each method's own.

    Raises:
        UserError: a rate that is neither, or not above 0.
    """
    rates = []
    for text in given:
        try:
            value = float(text.removesuffix("x"))
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise UserError(
                f"learning rate {text!r}: write a number such as 1e-3, or a factor of each method's own such as 0.5x"
            )
        rates.append(Rate(value, factor=text.endswith("x")))
    return rates


def rates_of(rates: Sequence[Rate], own: float) -> list[float]:
    """The learning rates to try for a method whose own is `own`, the lowest first; those that read the same once."""
    return sorted({rate_name(rate.of(own)): rate.of(own) for rate in rates}.values())


def rate_name(rate: float) -> str:
    """How a learning rate is written in names of folders: `"0.0016"`, `"8e-05"`."""
    return f"{rate:.4g}"


def check_searchable(config: RunConfig) -> None:
    """Raise `UserError` if runs of `config` have no validation loss to choose a learning rate by."""
    strategy = config.train.get("eval_strategy", DEFAULTS["eval_strategy"])
    if strategy in (False, "no"):
        raise UserError(
            "learning rates are chosen by the validation loss, but train.eval_strategy is no: set it to epoch or steps"
        )


def validation_losses(folder: RunFolder, config: RunConfig, steps: int, best_step: int | None) -> dict[str, float]:
    """Loss per task on the validation examples, in nats per completion token, of what a run saved.

    Args:
        folder: of the finished run.
        config: its configuration: `load_best_model_at_end` decides which weights were saved.
        steps: optimizer steps in all.
        best_step: the step with the best validation.

    Returns:
        Empty where the run looked at no validation examples.
    """
    saved_at = best_step if config.train.get("load_best_model_at_end") and best_step is not None else steps
    found: dict[str, float] = {}
    for logged in read_metrics(folder.metrics):
        if logged["step"] == saved_at and "eval_loss_macro" in logged:
            prefix = "eval_loss/"
            found = {key.removeprefix(prefix): loss for key, loss in logged.items() if key.startswith(prefix)}
    return found


def choose(search: Search) -> None:
    """Choose the rate with the lowest validation loss among the trials so far, the lower of two that are equal."""
    losses = {t["learning_rate"]: t["validation_loss"] for t in search["trials"] if t["validation_loss"] is not None}
    chosen = min(sorted(losses), key=lambda rate: losses[rate], default=None)
    tried = [trial["learning_rate"] for trial in search["trials"]]
    search["chosen"], search["edge"] = chosen, None
    if chosen is not None and len(tried) > 1:
        search["edge"] = {min(tried): "lowest", max(tried): "highest"}.get(chosen)  # type: ignore[typeddict-item]


def beyond(search: Search, given: Sequence[float]) -> float | None:
    """The next rate to try where the best so far is at an end: as far beyond it as its neighbour is on the other side.

    Args:
        given: the rates that the search began with.

    Returns:
        None where the best is at no end, or `MOST_BEYOND` rates were tried beyond those given.
    """
    tried = [trial["learning_rate"] for trial in search["trials"]]
    if search["edge"] == "lowest":
        (end, neighbour), outside = tried[:2], [rate for rate in tried if rate < min(given)]
    elif search["edge"] == "highest":
        (neighbour, end), outside = tried[-2:], [rate for rate in tried if rate > max(given)]
    else:
        return None
    return float(f"{end * end / neighbour:.6g}") if len(outside) < MOST_BEYOND else None


def add_trial(search: Search, trial: Trial) -> None:
    """Put a trial in its place, which an earlier, failed one may hold, and choose anew."""
    kept = [earlier for earlier in search["trials"] if earlier["learning_rate"] != trial["learning_rate"]]
    search["trials"] = sorted([*kept, trial], key=lambda each: each["learning_rate"])
    choose(search)
