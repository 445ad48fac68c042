"""What a comparison is asked to do, checked; and the results that it begins with or goes on from."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loraweave.bases import BaseSpec, empty_base
from loraweave.comparison.records import BASE, Asked, Results
from loraweave.comparison.store import check_same_methods
from loraweave.comparison.transfer import OWN
from loraweave.errors import UserError
from loraweave.estimate.counting import count_trainable, match_rank
from loraweave.runs.config import MAX_SEED, RunConfig
from loraweave.runs.methods import MethodSpec, choose_method
from loraweave.runs.settings import DEFAULTS

DEFAULT_OUTPUT = Path("runs") / "comparison"


def output_folder(config: RunConfig, output: str | Path | None) -> Path:
    """Where a comparison is written: `output`, else where the run file says, else runs/comparison."""
    return Path(output or config.output or DEFAULT_OUTPUT)


def default_methods(config: RunConfig) -> list[MethodSpec]:
    """What is compared where nobody says it: LoRA, the run file's own method, and of several tasks a LoRA for each."""
    own = choose_method(config.method)
    methods: list[MethodSpec] = ["lora"] if own.name == "lora" else ["lora", config.method]
    several = len(config.tasks) > 1 or len(config.load_tasks()) > 1  # one entry may be a group
    if several and own.name != OWN:
        methods.append(OWN)
    return methods


def choose_specs(config: RunConfig, methods: Sequence[MethodSpec]) -> dict[str, MethodSpec]:
    """Every method by its name, all of them known to be possible."""
    own = choose_method(config.method).name
    specs: dict[str, MethodSpec] = {}
    for given in methods:
        name = choose_method(given).name
        if name in specs:
            raise UserError(f"the method {name!r} is given twice: give one of them a `label` of its own")
        specs[name] = config.method if given == own else given
        choose_method(specs[name]).peft_config()
    if not any(name != BASE for name in specs):
        raise UserError("name at least one method to compare with the untouched base")
    return specs


def check_seeds(seeds: Sequence[int]) -> None:
    if not seeds:
        raise UserError("name at least one seed")
    if len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) > MAX_SEED:
        raise UserError(f"seeds must be different whole numbers from 0 to {MAX_SEED}, got {', '.join(map(str, seeds))}")


def matched(
    specs: Mapping[str, MethodSpec], first: Mapping[str, MethodSpec], base: BaseSpec, task_names: Sequence[str]
) -> dict[str, MethodSpec]:
    """Every adapter with the rank at which it trains as many parameters as the first adapter in `first`."""
    like = next((spec for spec in first.values() if choose_method(spec).method.trains == "adapter"), None)
    if like is None:
        return dict(specs)
    empty = empty_base(base)
    budget = count_trainable(like, empty, task_names)
    return {
        name: match_rank(spec, empty, budget, task_names)
        if choose_method(spec).method.trains == "adapter" and name != choose_method(like).name
        else spec
        for name, spec in specs.items()
    }


def settings_of(
    config: RunConfig,
    specs: Mapping[str, MethodSpec],
    seeds: Sequence[int],
    learning_rates: Sequence[str],
    match_params: bool,
    against: str | None,
    margin: float | None,
    search_steps: str | int | None = None,
) -> dict[str, Any]:
    """Everything that decides what the numbers are, and what is made of them."""
    if margin is not None and not 0 <= margin < math.inf:
        raise UserError(f"margin {margin:g}: how much worse a method may be, a number from 0 on, in points")
    values = {key: value for key, value in config.as_dict().items() if key not in ("method", "seed", "output")}
    values["train"] = {**DEFAULTS, **values["train"]}
    return {
        "config": values,
        "methods": dict(specs),
        "seeds": list(seeds),
        "learning_rates": list(learning_rates),
        "search_steps": None if search_steps is None else str(search_steps),
        "match_params": match_params,
        "against": against,
        "margin": margin,
    }


def continued(earlier: Results, settings: dict[str, Any], asked: Asked, command: str) -> Results:
    """The results so far, with what the new command adds. Learning rates given earlier stay in force."""
    before = earlier["settings"]
    check_same_methods(earlier, settings["methods"])
    steps = before.get("search_steps")
    if earlier["searches"] and settings["search_steps"] not in (None, steps):
        raise UserError(
            f"search steps {settings['search_steps']}: the searches of this comparison were begun with "
            f"{'whole trainings' if steps is None else steps}; leave --search-steps out, or choose another --output"
        )
    earlier["settings"] = {
        **settings,
        "against": settings["against"] or before.get("against"),
        "search_steps": settings["search_steps"] or steps,
        "margin": before.get("margin") if settings["margin"] is None else settings["margin"],
        "methods": before["methods"] | settings["methods"],
        **{key: list(dict.fromkeys([*before[key], *settings[key]])) for key in ("seeds", "learning_rates")},
    }
    earlier["asked"] = asked
    typed = earlier["command"].split("\n")
    if command.replace(" --resume", "") not in (line.replace(" --resume", "") for line in typed):
        earlier["command"] = "\n".join([*typed, command])
    return earlier
