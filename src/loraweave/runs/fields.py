"""What the fields of a method may hold: a word where a number belongs is told when the run file is read."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from loraweave.config_checks import BY_LAYER, LIMITS, MOST
from loraweave.errors import shown

_KNOBS: dict[str, Any] = {
    **{name: Annotated[int, Field(ge=1, le=most)] for name, most in MOST.items()},
    **{name: Annotated[float, Field(**limits)] for name, limits in LIMITS.items()},
    "lora_alpha": Annotated[float, Field(gt=0)],  # with 0 whatever is learned would be multiplied by it
}
_NAMES = str | list[str] | None
_TOKENS = list[Annotated[int, Field(ge=0)]]

# Where PEFT's own hints say less than what it takes, or more.
_HINTS: dict[str, Any] = {
    **_KNOBS,
    "top_k": _KNOBS["top_k"] | None,
    **{
        name: dict[str, _KNOBS[knob]]  # type: ignore[valid-type]
        for name, knob in BY_LAYER.items()
    },
    "target_modules": _NAMES,
    "exclude_modules": _NAMES,
    "layers_pattern": _NAMES,
    "modules_to_save": list[str] | None,
    "layers_to_transform": int | list[int] | None,
    "init_lora_weights": bool | str,
    "trainable_token_indices": _TOKENS | dict[str, _TOKENS] | None,
}
_NO_LORA = "its tensors are no LoRA's, and nothing here could load, score or export what comes out"
_OTHER_PLACE = "it counts from the last of these tokens in a text, and here rows hold several texts or begin in one"
_FROM_DATA = "it is worked out from data before training, which is not done here: PEFT would begin as without it"
NOT_DONE: dict[str, str] = {
    **dict.fromkeys(("kasa_config", "monteclora_config", "velora_config"), _NO_LORA),
    **dict.fromkeys(("eva_config", "corda_config", "lora_ga_config"), _FROM_DATA),
    "alora_invocation_tokens": _OTHER_PLACE,
    "arrow_config": "it routes among LoRAs that are there: loraweave assemble --gate token does",
    "runtime_config": "PEFT takes it from Python alone",
    **dict.fromkeys(("megatron_config", "megatron_core"), "no base is loaded with Megatron's layers here"),
}
"""Fields of PEFT's LoRA that a run file cannot set, with the reason."""
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def field_problems(method: str, config_class: Any, given: Mapping[str, Any]) -> Iterator[str]:
    """What a run file sets of a method, compared with the kinds that its configuration's fields are of.

    Args:
        method: its name, for the message.
        config_class: of its PEFT configuration; None where it has none.
        given: the fields that were set.

    Yields:
        A line for each value of another kind, out of range or not finite; it names the field.
    """
    for name, value in given.items():
        adapter = _adapter(config_class, name) if config_class is not None else None
        if adapter is None:
            continue
        if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
            yield f"method {method}: {name}: its keys must be names, got {shown(value)}"
            continue
        try:
            adapter.validate_json(json.dumps(value, default=str))  # as JSON: a list stands for a set or a tuple too
        except ValidationError as error:
            problem = min(error.errors(), key=lambda one: -len(one["loc"]))
            inner = f" ({shown(problem['input'])})" if problem["loc"] else ""
            yield f"method {method}: {name}: {problem['msg']}{inner}, got {shown(value)}"


def not_done(name: str, value: Any) -> str | None:
    """Why a field of PEFT's LoRA, or this value of one, is of no use in a run file; None where it is."""
    start = str(value).lower() if name == "init_lora_weights" else ""
    if start in ("eva", "corda", "lora_ga"):
        return f"{name}: {value} cannot be set: {_FROM_DATA}"
    if "_niter_" in start:
        return (
            f"{name}: {value} cannot be set: it begins with numbers that are drawn anew wherever the adapter is put on "
            f"its base, which it would no longer fit: take {start.partition('_niter_')[0]}"
        )
    return f"{name} cannot be set: {NOT_DONE[name]}" if name in NOT_DONE else None


def field_hint(config_class: Any, name: str) -> Any:
    """The kind of a field of a method, as a type; None where that cannot be checked."""
    hint = _HINTS.get(name, _hints(config_class).get(name))
    return None if _adapter(config_class, name) is None else hint


@cache
def _adapter(config_class: Any, name: str) -> TypeAdapter | None:
    """None for a field whose kind cannot be checked: a configuration within the configuration."""
    hint = _HINTS.get(name, _hints(config_class).get(name))
    try:
        return None if hint is None else TypeAdapter(hint, config=_STRICT)
    except PydanticUserError:  # a dataclass of PEFT's, which takes no settings from outside
        return None


@cache
def _hints(config_class: Any) -> dict[str, Any]:
    return get_type_hints(config_class)
