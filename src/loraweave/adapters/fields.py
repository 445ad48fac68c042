"""What an adapter's configuration may hold, looked at before anything is made of it: the file may be anybody's."""

import json
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from loraweave.errors import UserError, nearest, shown

PATIENCE = 5.0
"""Seconds that all expressions of a configuration may take over all layers of a model."""
MOST_ROUNDS, MOST_LAYERS = 1000, 4096

_NUMBERS = ("lora_alpha", "lora_dropout", "temperature", "up_density")
_COUNTS = ("r", "num_heads", "task_embedding_dim")
_NAMES = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "task_names")
_MATCH = """
import json, re, sys
given = json.load(sys.stdin)
for expression in given["expressions"]:
    try:
        compiled = re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        print(json.dumps([expression, str(error)]))
        break
    for name in given["names"]:
        compiled.fullmatch(name)
        compiled.match(name)
"""


def check_fields(values: dict[str, Any], where: str) -> None:
    """Raise UserError, with `where` it stands, for a field of an adapter_config.json that holds what it cannot."""
    kind = values.get("peft_type")
    known = [str(getattr(name, "value", name)) for name in PEFT_TYPE_TO_CONFIG_MAPPING]
    if not isinstance(kind, str) or kind not in known:
        raise UserError(f"{where}: unknown peft_type {kind!r}{nearest(str(kind), ('LORA', 'LORAWEAVE'))}")
    for field in _NUMBERS:
        _check_number(field, values.get(field, 1), where)
    for field in _COUNTS:
        _check_count(field, values.get(field, 1), where)
    for field, check in (
        ("rank_pattern", _check_count),
        ("alpha_pattern", _check_number),
        ("num_heads_pattern", _check_count),
    ):
        pattern = values.get(field) or {}
        if not isinstance(pattern, dict):
            raise UserError(f"{where}: {field} must map names of layers to numbers, got {shown(pattern)}")
        for name, value in pattern.items():
            check(f"{field}[{name!r}]", value, where)
    for field in _NAMES:
        value = values.get(field)
        listed = isinstance(value, list) and all(isinstance(name, str) for name in value)
        text = isinstance(value, str) and field not in ("modules_to_save", "task_names")
        if value is not None and not listed and not text:
            raise UserError(f"{where}: {field} must be names of modules, got {shown(value)}")
    _check_work(values, where)


def _check_work(values: dict[str, Any], where: str) -> None:
    """Raise UserError where PEFT would compute for as long, or build as many layers, as nobody wants."""
    start, loftq = values.get("init_lora_weights"), values.get("loftq_config")
    rounds = str(start).partition("_niter_")[2], str(loftq.get("loftq_iter", 1)) if isinstance(loftq, dict) else "1"
    for written in rounds:
        if written.isdigit() and (len(written) > 9 or int(written) > MOST_ROUNDS):
            raise UserError(f"{where}: a start of {written[:20]} rounds; {MOST_ROUNDS} at most")
    replicated = values.get("layer_replication")
    if replicated is None:
        return
    pairs = replicated if isinstance(replicated, list) else [replicated]
    if not all(isinstance(p, list) and len(p) == 2 and all(type(each) is int for each in p) for p in pairs):
        raise UserError(
            f"{where}: layer_replication must be pairs of a first layer and an end, got {shown(replicated)}"
        )
    if sum(max(0, end - first) for first, end in pairs) > MOST_LAYERS or len(pairs) > MOST_LAYERS:
        raise UserError(f"{where}: layer_replication makes more than {MOST_LAYERS:,} layers")


def check_expressions(config: Any, names: Iterable[str], where: str) -> None:
    """Try every regular expression of a configuration on all layers' names, in a process that can be ended.

    Args:
        config: a `PeftConfig`; its list fields may hold expressions too, since PEFT builds one around each.
        names: of all modules that PEFT will try them on.
        where: for the message.

    Raises:
        UserError: an expression that is none, or one that does not come to an end.
    """
    expressions = [
        value
        for field in ("target_modules", "exclude_modules")
        if isinstance(value := getattr(config, field, None), str) and value != "all-linear"
    ]
    for field in ("rank_pattern", "alpha_pattern", "num_heads_pattern"):
        expressions += [rf"(.*\.)?({name})$" for name in getattr(config, field, None) or {} if not _is_plain(name)]
    pattern = getattr(config, "layers_pattern", None) or []
    for name in [pattern] if isinstance(pattern, str) else pattern:
        expressions += [] if _is_plain(name) else [rf".*\.{name}\.(\d+)\."]
    if not expressions:
        return
    given = json.dumps({"expressions": expressions, "names": list(names)})
    command = [sys.executable, "-I", "-S", "-c", _MATCH]
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{where}: {' or '.join(map(shown, expressions))} does not come to an end on the names of the model's "
            "layers; write the expression without nested repetition, or list the layers"
        ) from error
    if done.stdout.strip():
        expression, reason = json.loads(done.stdout)
        raise UserError(f"{where}: {shown(expression)} is not a regular expression: {reason}")


def check_saved(config: Any, names: Sequence[str], where: str) -> None:
    """Raise UserError, with `where` it stands, for a name in `modules_to_save` that fits none of a base's modules."""
    for name in config.modules_to_save or ():
        if not any(path.endswith(name) for path in names):
            raise UserError(f"{where}: modules_to_save names {name!r}, and the base has no such module")


def _is_plain(name: str) -> bool:
    return all(letter.isalnum() or letter in "._-" for letter in name)


def _check_number(field: str, value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{where}: {field} must be a number, got {shown(value)}")


def _check_count(field: str, value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{where}: {field} must be a whole number of at least 1, got {shown(value)}")
