"""The search for each method's learning rate: which rates are tried, and which one is taken.

Only validation examples judge a rate: test examples are for the runs at the rate that was chosen.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

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


def parse_search_steps(given: str | int, whole: int | None = None) -> int:
    """The optimizer steps of the longest trainings of a search: `100`, or `"25%"` of the `whole` training's; of some
    length where that is not known yet.

    Raises:
        UserError: neither, or not shorter than the training itself.
    """
    text, most = str(given).strip(), sys.maxsize if whole is None else whole
    try:
        share = text.endswith("%")
        steps = round(float(text.removesuffix("%")) * most / 100) if share else int(text)
    except (ValueError, OverflowError):
        raise UserError(f"search steps {text!r}: write a number of steps such as 100, or a share such as 25%") from None
    if not 1 <= steps < most:
        run = "steps of a run" if whole is None else f"{whole:,} of a run; it is {steps:,}"
        raise UserError(f"search steps {text}: has to be at least 1, and below the {run}")
    return steps


def rounds(rates: int, steps: int) -> list[int]:
    """The steps of each round of a search that halves its field and doubles the steps, the last round's being `steps`.

    After Jamieson and Talwalkar's successive halving (2016): as many rounds as it takes to come from `rates` to one.
    """
    count = max(1, math.ceil(math.log2(rates)))
    return list(dict.fromkeys(math.ceil(steps / 2 ** (count - 1 - number)) for number in range(count)))


def rounds_of(search: Search) -> Sequence[int | None]:
    """The steps of the trials of each round; one round of whole trainings (None) where a search has no rounds."""
    return search.get("rounds") or [None]


def due(search: Search, given: Sequence[float], widen: bool) -> list[tuple[float, int | None]]:
    """The trials that a search wants next, each a rate and its steps; none where it has come to its end.

    The first round is of the rates given, and where it is to be widened of those beyond. Each further one is of the
    better half of the one before, by validation loss. Where these trainings are shorter than a run, whole ones are to
    confirm the choice, or to find a lower rate that is better.

    Args:
        given: the rates to begin with.
        widen: try rates beyond the best where that is the lowest or the highest.
    """
    field: list[float] = []
    for number, steps in enumerate(rounds_of(search)):
        done = trials_at(search, steps)
        tried = {trial["learning_rate"] for trial in done}
        if number == 0:  # a rate that the search came to by widening may be asked for by name later: it is one
            field = sorted({rate_name(rate): rate for rate in [*given, *sorted(tried)]}.values())
        left = [rate for rate in field if rate not in tried]
        if number == 0 and not left and widen and (rate := beyond(search, given)) is not None:
            left = [rate]
        if left:
            return [(rate, steps) for rate in left]
        losses = losses_of(trial for trial in done if trial["learning_rate"] in field)
        field = sorted(sorted(losses), key=losses.__getitem__)[: math.ceil(len(field) / 2)]
        if len(field) < 2:
            break
    rate = _unconfirmed(search, given, widen) if search.get("rounds") else None
    return [] if rate is None else [(rate, None)]


def _unconfirmed(search: Search, given: Sequence[float], widen: bool) -> float | None:
    """The rate that is to be trained whole next: the best of the shorter trainings, which favour high rates, and then
    one lower rate after the other for as long as each is better than the one above it; None where there is no more to
    try."""
    best, whole = best_of_shorter(search), trials_at(search, None)
    if best is None:
        return None
    too_high = [trial["learning_rate"] for trial, _ in not_held(search)]
    if best not in {trial["learning_rate"] for trial in whole} and best < min(too_high, default=math.inf):
        return best
    losses = [math.inf if trial["validation_loss"] is None else trial["validation_loss"] for trial in whole]
    if len(losses) > 1 and losses[1] <= losses[0] < math.inf:
        return None
    lowest, tried = whole[0]["learning_rate"], sorted({trial["learning_rate"] for trial in search["trials"]})
    if widen and lowest == tried[0] and sum(rate < min(given) for rate in tried) < MOST_BEYOND and len(tried) > 1:
        return _next_beyond(tried[0], tried[1])
    return max((rate for rate in _sound(search) if rate < lowest), default=None)


def best_of_shorter(search: Search) -> float | None:
    """The rate that the trainings of a search's rounds are for, without rates that failed; None where there is none."""
    return _best(search, rounds_of(search))


def not_held(search: Search) -> list[tuple[Trial, Trial]]:
    """Of a search on shorter trainings the whole ones that ended with a higher validation loss than one of those, at
    their rate or a lower one, each with the best of those; the lowest rate first. What a short schedule bears may be
    too high for a long one."""
    found = []
    for whole in trials_at(search, None):
        shorter = [
            (trial["validation_loss"], trial)
            for trial in search["trials"]
            if trial.get("steps") and trial["learning_rate"] <= whole["learning_rate"]
        ]
        loss = math.inf if whole["validation_loss"] is None else whole["validation_loss"]
        lower = [(each, trial) for each, trial in shorter if each is not None and each < loss]
        if lower:
            found.append((whole, min(lower, key=lambda pair: pair[0])[1]))
    return found


def _sound(search: Search) -> set[float]:
    """The rates tried at which no training failed."""
    failed = {trial["learning_rate"] for trial in search["trials"] if trial["validation_loss"] is None}
    return {trial["learning_rate"] for trial in search["trials"]} - failed


def trials_at(search: Search, steps: int | None) -> list[Trial]:
    """The trials of a round, the lowest rate first."""
    return sorted((t for t in search["trials"] if t.get("steps") == steps), key=lambda t: t["learning_rate"])


def choose(search: Search) -> None:
    """Choose the rate with the lowest validation loss among the longest trials so far, the lower of two that are equal.
    A rate that failed once is out."""
    search["chosen"] = _best(search, [*rounds_of(search), None])
    search["edge"] = _edge(search["chosen"], [trial["learning_rate"] for trial in search["trials"]])


def _best(search: Search, lengths: Sequence[int | None]) -> float | None:
    """The best rate of the last of these rounds that has any, without rates that failed."""
    best, sound = None, _sound(search)
    for steps in lengths:
        losses = losses_of(trial for trial in trials_at(search, steps) if trial["learning_rate"] in sound)
        best = min(sorted(losses), key=losses.__getitem__, default=best)
    return best


def losses_of(trials: Iterable[Trial]) -> dict[float, float]:
    """Validation loss by learning rate, of the trials that have one."""
    return {t["learning_rate"]: t["validation_loss"] for t in trials if t["validation_loss"] is not None}


def _edge(best: float | None, tried: Sequence[float]) -> Literal["lowest", "highest"] | None:
    """At which end of the rates tried the best one lies, if at any."""
    if best is None or len(set(tried)) < 2 or best not in (min(tried), max(tried)):
        return None
    return "lowest" if best == min(tried) else "highest"


def beyond(search: Search, given: Sequence[float]) -> float | None:
    """The next rate to try where the best so far is at an end: as far beyond it as its neighbour is on the other side.

    Of a search in rounds this is asked of the first, which is the shortest.

    Args:
        given: the rates that the search began with.

    Returns:
        None where the best is at no end, or `MOST_BEYOND` rates were tried beyond those given.
    """
    trials = trials_at(search, rounds_of(search)[0])
    tried, losses = [trial["learning_rate"] for trial in trials], losses_of(trials)
    edge = _edge(min(sorted(losses), key=losses.__getitem__, default=None), tried)
    if edge is None:
        return None
    if edge == "lowest":
        (end, neighbour), outside = tried[:2], [rate for rate in tried if rate < min(given)]
    else:
        (neighbour, end), outside = tried[-2:], [rate for rate in tried if rate > max(given)]
    return _next_beyond(end, neighbour) if len(outside) < MOST_BEYOND else None


def _next_beyond(end: float, neighbour: float) -> float:
    """The rate as far beyond the end as its neighbour is on the other side."""
    return float(f"{end * end / neighbour:.6g}")


def add_trial(search: Search, trial: Trial) -> None:
    """Put a trial in its place, which an earlier, failed one may hold, and choose anew."""
    place = _place(trial)
    search["trials"] = sorted([*(each for each in search["trials"] if _place(each) != place), trial], key=_place)
    choose(search)


def _place(trial: Trial) -> tuple[float, float]:
    return trial.get("steps") or math.inf, trial["learning_rate"]
