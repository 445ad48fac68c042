"""Which values the knobs of a `WeaveConfig` take, and which of them go together."""

import math
import operator
from collections.abc import Callable
from typing import Any, Literal, TypedDict, get_args

from loraweave.errors import UserError, nearest, shown

Down = Literal["shared", "per_head"]
Gate = Literal["uniform", "channel", "token", "task", "task_embedding", "own"]
Start = Literal["zero_up", "zero_gate", "random_anchored"]
RouterInput = Literal["x", "rank"]
Up = Literal["per_head", "shared"]
Bias = Literal["none", "all", "weave_only"]

MOST = {"r": 65_536, "num_heads": 10_000, "task_embedding_dim": 65_536, "gate_groups": 65_536, "top_k": 10_000}
"""The largest that a knob may be: more is a slip of the keyboard, and no memory holds it."""


class Limits(TypedDict, total=False):
    """Between what a number lies, in pydantic's words: above, at least, below, at most."""

    gt: float
    ge: float
    lt: float
    le: float


LIMITS: dict[str, Limits] = {
    "lora_alpha": {},
    "lora_dropout": {"ge": 0, "lt": 1},
    "temperature": {"gt": 0},
    "up_density": {"gt": 0, "le": 1},
}

BY_LAYER = {"rank_pattern": "r", "num_heads_pattern": "num_heads", "alpha_pattern": "lora_alpha"}
"""What is given by layers' names, and the knob that it takes the place of there."""

_SAID: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "gt": (operator.gt, "above"),
    "ge": (operator.ge, "at least"),
    "lt": (operator.lt, "below"),
    "le": (operator.le, "at most"),
}

OF_A_GATE: dict[str, tuple[str, Any]] = {
    "gate_groups": ("token", 1),
    "router_input": ("token", "x"),
    "temperature": ("task", 1.0),
    "task_embedding_dim": ("task_embedding", 64),
}
"""Knobs of a single gate: which, and what they are where another is meant."""

SOFTMAX_GATES = ("token", "task", "task_embedding")


def check_values(config: Any) -> None:
    """Raise UserError for a field of a `WeaveConfig` whose value is none of those that it takes."""
    kinds = {"down": Down, "gate": Gate, "start": Start, "bias": Bias, "router_input": RouterInput, "up": Up}
    for name, choices in kinds.items():
        value, known = getattr(config, name), get_args(choices)
        if value not in known:
            raise UserError(f"{name}={value!r} is not one of {', '.join(known)}{nearest(value, known)}")
    if config.task_transform not in (True, False, "diagonal"):
        raise UserError(f"task_transform={config.task_transform!r} is not one of False, True, full, diagonal")
    for name, most in MOST.items():
        if name != "top_k" or config.top_k is not None:
            check_count(name, getattr(config, name), most)
    for name, limits in LIMITS.items():
        check_number(name, getattr(config, name), limits)
    for name, knob in BY_LAYER.items():
        check_by_layer(name, knob, getattr(config, name))
    _check_counts("heads_by_depth", config.heads_by_depth, MOST["num_heads"])
    _check_counts("block_size", config.block_size, 2**24)
    if config.block_size is not None and len(config.block_size) != 2:
        raise UserError(f"block_size must be [d_in, d_out], got {shown(config.block_size)}")
    if config.layers_pattern and config.layers_to_transform is None:
        raise UserError("layers_pattern is used only together with layers_to_transform")
    by_expression = isinstance(config.target_modules, str) and config.target_modules != "all-linear"
    if by_expression and config.layers_to_transform is not None:
        raise UserError("layers_to_transform needs target_modules as a list: a regular expression names layers itself")


def check_by_layer(name: str, knob: str, patterns: Any) -> None:
    """Raise UserError, naming it, for anything but a mapping from layers' names to values that a knob takes."""
    if not isinstance(patterns, dict):
        raise UserError(f"{name} must map names of layers to numbers, got {shown(patterns)}")
    for pattern, value in patterns.items():
        if knob in MOST:
            check_count(f"{name}[{pattern!r}]", value, MOST[knob])
        else:
            check_number(f"{name}[{pattern!r}]", value, LIMITS[knob])


def check_count(name: str, value: Any, most: int) -> None:
    """Raise UserError, naming it, for anything but a whole number from 1 to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name} must be a whole number of at least 1, got {shown(value)}")
    if value > most:
        raise UserError(f"{name} must be at most {most:,}, got {shown(value)}")


def _check_counts(name: str, values: Any, most: int) -> None:
    """None, or a list of one count or more."""
    if values is None:
        return
    if not isinstance(values, (list, tuple)) or not values:
        raise UserError(f"{name} must be a list of whole numbers, got {shown(values)}")
    for number, value in enumerate(values):
        check_count(f"{name}[{number}]", value, most)


def check_number(name: str, value: Any, limits: Limits) -> None:
    """Raise UserError, naming it, for anything but a finite number within `limits`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{name} must be a number, got {shown(value)}")
    said = [(*_SAID[how], limit) for how, limit in limits.items() if isinstance(limit, int | float)]
    if not all(holds(value, limit) for holds, _, limit in said):
        wanted = " and ".join(f"{word} {limit}" for _, word, limit in said)
        raise UserError(f"{name} must be {wanted}, got {value!r}")


def check_combination(config: Any) -> None:
    """Raise UserError for knobs of a `WeaveConfig` that mean nothing together, with what is possible."""
    if config.start == "zero_gate" and config.gate != "channel":
        raise UserError(f"start='zero_gate' needs gate='channel': a {config.gate} gate cannot be zero")
    if config.start == "random_anchored":
        _check_anchored(config)
    if config.top_k is not None:
        _check_top_k(config)
    for name, (gate, plain) in OF_A_GATE.items():
        if config.gate != gate and getattr(config, name) != plain:
            raise UserError(
                f"{name}={getattr(config, name)!r} needs gate={gate!r}, not {config.gate!r}: leave it out, or {plain!r}"
            )
    if config.up == "shared":
        _check_shared_up(config)
    if config.up_density < 1 and config.start != "zero_up":
        raise UserError(f"up_density={config.up_density} needs start='zero_up': what is left out of B stays at 0")
    if config.needs_tasks:
        _check_tasks(config)


def _check_shared_up(config: Any) -> None:
    """One B for all heads, which differ by a matrix between A and B."""
    for name, plain in (("down", "shared"), ("start", "zero_up"), ("up_density", 1.0)):
        if getattr(config, name) != plain:
            raise UserError(f"up='shared' needs {name}={plain!r}, got {getattr(config, name)!r}")
    if config.gate in ("own", "channel"):
        raise UserError(
            f"up='shared' does not go with gate={config.gate!r}: its heads are r × r matrices; "
            "task_transform=True is one such matrix for each task"
        )


def _check_anchored(config: Any) -> None:
    if config.down != "shared":
        raise UserError(
            "start='random_anchored' needs down='shared': the mean of B_h A_h has no low-rank anchor; "
            "with down='per_head' use 'zero_up' or, with gate='channel', 'zero_gate'"
        )
    for name, given in (("gate='own'", config.gate == "own"), ("top_k", config.top_k is not None)):
        if given:
            raise UserError(
                f"start='random_anchored' does not go with {name}: its anchor takes away the mean over all heads, so "
                "all must weigh alike at the start; use 'zero_up'"
            )


def _check_top_k(config: Any) -> None:
    if config.gate not in SOFTMAX_GATES:
        raise UserError(
            f"top_k needs one of the gates {', '.join(SOFTMAX_GATES)}: gate={config.gate!r} chooses nothing"
        )
    by_place = {"num_heads": [config.num_heads], "heads_by_depth": config.heads_by_depth or ()}
    by_place["num_heads_pattern"] = list(config.num_heads_pattern.values())
    where, fewest = min(((n, min(c)) for n, c in by_place.items() if c), key=lambda found: found[1])
    if config.top_k > fewest:
        raise UserError(f"top_k={config.top_k} is more than there are heads: {where} has {fewest}")


def _check_tasks(config: Any) -> None:
    what = f"gate={config.gate!r}"
    if config.gate not in ("task", "task_embedding", "own"):
        what = f"task_transform={config.task_transform!r}"
    if not config.task_names:
        raise UserError(f"{what} needs task_names: the tasks, in the order of their ids")
    if len(set(config.task_names)) != len(config.task_names):
        raise UserError(f"task_names must differ from each other, got {config.task_names}")
    if config.gate == "own":
        tasks = len(config.task_names)
        other = next((name for name in ("num_heads_pattern", "heads_by_depth") if getattr(config, name)), None)
        if config.num_heads != tasks or other:
            said = other or f"num_heads={config.num_heads}"
            raise UserError(f"gate='own' has one head for each of its {tasks} tasks: leave out {said}")
