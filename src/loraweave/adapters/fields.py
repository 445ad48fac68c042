"""What an adapter's configuration may hold, looked at before anything is made of it: the file may be anybody's."""

import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.other import get_pattern_key

from loraweave.config_checks import BY_LAYER, LIMITS, MOST, check_by_layer, check_count, check_number
from loraweave.errors import UserError, check_none, nearest, shown

PATIENCE = 5.0
"""Seconds that all expressions of a configuration may take over all layers of a model."""
MOST_ROUNDS, MOST_LAYERS = 1000, 4096

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
    for field in LIMITS:
        check_number(f"{where}: {field}", values.get(field, 1), {})
    for field in _COUNTS:
        check_count(f"{where}: {field}", values.get(field, 1), MOST[field])
    for field, knob in BY_LAYER.items():
        check_by_layer(f"{where}: {field}", knob, values.get(field) or {})
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
    for field in BY_LAYER:
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


def check_layer_names(given: Mapping[str, Any], names: Collection[str], adapted: "Adapted", where: str) -> None:
    """Refuse names that fit nothing in a base: PEFT passes over them, and what was meant would be left as it is.

    Args:
        given: of a configuration's fields those that somebody wrote; expressions among them come to an end.
        names: of all modules of the base.
        adapted: what was adapted.
        where: for the message.

    Raises:
        ManyError: with a line for each, which names the field and the nearest that there is.
    """
    check_none(f"{where}: {problem}" for problem in _fitting_nothing(given, names, adapted))


class Adapted(NamedTuple):
    """What PEFT has adapted in a base.

    Attributes:
        layers: their names.
        weights: those that are adapted as weights and not as layers, such as experts that are fused in one tensor.
        targets: what is left of `target_modules`, where these weights' names were among them.
    """

    layers: Collection[str]
    weights: Collection[str] = ()
    targets: Collection[str] | None = None


def _fitting_nothing(given: Mapping[str, Any], names: Collection[str], adapted: Adapted) -> Iterator[str]:
    def hint(name: str, among: Collection[str]) -> str:
        return nearest(name, {path.rpartition(".")[2] for path in among} - {name})

    everything = [*adapted.layers, *adapted.weights]
    for field, among, what in (("target_modules", everything, "adapted layer"), ("exclude_modules", names, "module")):
        value = given.get(field)
        if isinstance(value, str):
            if value.lower() != "all-linear" and not any(re.fullmatch(value, path) for path in among):
                yield f"{field}={shown(value)} fits no {what} of the base"
            continue
        for name in value or ():
            as_weight = field == "target_modules" and adapted.targets is not None and name not in adapted.targets
            if not as_weight and not _ends(name, among):
                yield f"{field} names {name!r}, which is no {what} of the base{hint(name, names)}"
    for name in given.get("target_parameters") or ():
        if not _ends(name, adapted.weights):
            yield f"target_parameters names {name!r}, which is no weight of the base"
    for field in BY_LAYER:
        for pattern in given.get(field) or ():
            if not any(get_pattern_key([pattern], path) == pattern for path in everything):
                yield f"{field} names {pattern!r}, which fits no adapted layer{hint(pattern, adapted.layers)}"
    indices = given.get("layers_to_transform")
    indices = [indices] if isinstance(indices, int) else indices or ()
    for index in indices:
        if not any(f".{index}." in path for path in adapted.layers):
            yield f"layers_to_transform names {index}, and no adapted layer has this index"
    yield from _adapted_all_the_same(given, indices, adapted.weights)


def _adapted_all_the_same(
    given: Mapping[str, Any], indices: Collection[int], weights: Collection[str]
) -> Iterator[str]:
    """PEFT leaves out layers, and no weights that it adapts as such."""
    excluded = given.get("exclude_modules") or ()
    for weight in weights:
        owner = weight.rpartition(".")[0]
        out = re.fullmatch(excluded, owner) if isinstance(excluded, str) else any(_ends(e, [owner]) for e in excluded)
        beyond = indices and not any(f".{index}." in weight for index in indices)
        if out or beyond:
            yield (
                f"{'exclude_modules' if out else 'layers_to_transform'} leaves out {owner}, and PEFT adapts it all the "
                "same, for it is a weight to it and no layer: name the layers that are wanted as target_modules"
            )
            return


def _ends(name: str, paths: Collection[str]) -> bool:
    """Whether any of the paths ends with a name."""
    return any(f".{path}".endswith(f".{name}") for path in paths)


def _is_plain(name: str) -> bool:
    return all(letter.isalnum() or letter in "._-" for letter in name)
