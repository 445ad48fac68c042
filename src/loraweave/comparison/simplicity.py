"""How simple a method is to use once it is trained: what decides between methods that do equally well."""

from typing import NamedTuple

from loraweave.config import WeaveConfig
from loraweave.runs.methods import METHODS, MethodSpec, choose_method
from loraweave.runs.outlook import outlook

WHOLE_MODEL = 5


class Simplicity(NamedTuple):
    """Simpler methods come first when sorted.

    Attributes:
        level: 0 PEFT's own adapters; 1 a plain LoRA after a special training; 2 folds into a plain LoRA; 3 folds into
            one for each task, and needs to know the task; 4 depends on x, so it cannot be folded; 5 every weight of
            the base is another.
        place: in the list of methods, for those on one level.
        means: what it means for the one who uses the adapter, in words that go on after "it".
    """

    level: int
    place: int
    means: str


def simplicity(spec: MethodSpec) -> Simplicity:
    """The simplicity of a method as it was compared, its fields included."""
    method = choose_method(spec).method
    level, means = _level(spec)
    return Simplicity(level, list(METHODS).index(method.name), means)


def _level(spec: MethodSpec) -> tuple[int, str]:
    config = choose_method(spec).peft_config()
    if config is None:
        return WHOLE_MODEL, "is a whole model, as large as the base, and not an adapter"
    more = ""
    if config.modules_to_save or getattr(config, "bias", "none") != "none":
        ids = "to know the task" if getattr(config, "needs_tasks", False) else "no task ids"
        trains = "it trains more than its layers (modules_to_save or biases)"
        more = f"needs {ids}; {trains}, so it merges, but is no plain LoRA"
    if isinstance(config, WeaveConfig):
        if config.depends_on_input:
            return 4, "needs no task ids, but depends on the input, so it cannot be folded into a plain LoRA"
        if config.needs_tasks:
            return 3, more or "needs to know the task, for each of which it can be folded into a plain LoRA"
        return 2, more or "needs no task ids and can be folded into a plain LoRA without loss"
    if getattr(config, "use_dora", False):
        return 0, "is PEFT's own DoRA and needs no task ids; it merges into the weights, but is no plain LoRA"
    if not more and (why := outlook(choose_method(spec)).why):  # a start such as PiSSA's, trained tokens
        more = f"needs no task ids; {why[0].lower()}{why[1:].removesuffix('.')}"
    if choose_method(spec).losses.alignment:
        return 1, more or "is a plain LoRA, which needs task ids in training only"
    return 0, more or "is a plain LoRA and needs no task ids"
