"""Public names say what a reader needs: parameters and fields, shapes of tensors, units of numbers, errors, sources.

Public is what the API reference shows (`:::` in docs/reference), and every name of `loraweave.__all__` stands there.
The rules, by kind:

- whatever it is has a docstring, and names each of its parameters or fields in it (a record of plain JSON types, a
  TypedDict, may leave those without a number to their names);
- a tensor, given or returned, has its shape there: (…, d_in), say, or "any shape";
- a float, given, kept or returned, has what it counts there: a unit, or the word for a number without one;
- an exception that its own code raises is named there;
- what a paper defines names the paper by its number on arXiv.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import loraweave
from loraweave.config import PRESETS
from loraweave.lowrank import divergences
from loraweave.runs.methods import METHODS

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
SHAPE = re.compile(r"\([^()]*(?:,|…)[^()]*\)|\(\)|any shape|the same shape|x's shape|`shape`|-> ")
UNIT = re.compile(
    r"\b(?:nats?|logits?|bytes|seconds?|unit|percent|probability|share|factor|scaling|weight|numerator|temperature|rate|cosine|"
    r"similarity|entropy|norm|number|τ|λ)\b|%|0 to 1|−1 to 1",
    re.IGNORECASE,
)
SAYS_ITS_UNIT = re.compile(r"seconds|_per_second|bytes|_rates?$")
FROM_A_PAPER = {
    "loraweave.lowrank.starts.anchored": "2502.15455",
    "loraweave.lowrank.gates.Gate": "2502.15455|2404.19245|2410.09437|2310.18339|2603.01526",
    **{
        f"loraweave.lowrank.divergences.{name}": r"\d{4}\.\d{5}"
        for name in ("symmetric_kl", "mmd", "imbalance", "spectral_overlap", "localized_imbalance")
    },
    **{f"loraweave.{config.__name__}": re.escape(METHODS[name].paper or "") for name, config in PRESETS.items()},
    "loraweave.LossConfig": "2508.05078",
}


def shown() -> dict[str, Any]:
    """Every object of the reference, those of its modules too, by the name that it has there."""
    found: dict[str, Any] = {}
    for page in sorted(REFERENCE.glob("*.md")):
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            found.update(members_of(name, resolved(name)))
    return found


def resolved(name: str) -> Any:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            value = getattr(value, part)
        return value
    raise AssertionError(f"the reference shows {name}, and there is no such thing")


def members_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The object, and what belongs to it and is public."""
    yield name, value
    if isinstance(value, ModuleType):
        for key, member in vars(value).items():
            own = inspect.isfunction(member) or inspect.isclass(member)
            if own and not key.startswith("_") and member.__module__ == value.__name__:
                yield from members_of(f"{name}.{key}", member)
    elif inspect.isclass(value):
        for key, member in vars(value).items():
            unwrapped = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            described = inspect.isfunction(unwrapped) or isinstance(unwrapped, property)
            if described and not key.startswith("_") and not is_inherited(value, key):
                yield f"{name}.{key}", unwrapped


def is_inherited(owner: type, key: str) -> bool:
    """Whether a method only fills in one that a library's base class has described."""
    return any(key in vars(base) and not base.__module__.startswith("loraweave") for base in owner.__mro__[1:])


SHOWN = {name: value for name, value in shown().items() if not isinstance(value, ModuleType)}
FUNCTIONS = {name: value.fget if isinstance(value, property) else value for name, value in SHOWN.items()}
FUNCTIONS = {name: value for name, value in FUNCTIONS.items() if inspect.isfunction(value)}
CLASSES = {name: value for name, value in SHOWN.items() if inspect.isclass(value)}


def doc(value: Any) -> str:
    return inspect.cleandoc(value.__doc__ or "")


def entry(name: str, text: str) -> str:
    """What is said of a parameter or field: its entry in a list of them, or else the sentences that name it."""
    lines = text.splitlines()
    for number, line in enumerate(lines):  # an entry of a list
        if match := re.match(rf"( *)(?:\S+, )*{name}(?:, \S+)*: ", line) or re.match(rf"( +).*[.:] {name}: ", line):
            following = lines[number + 1 :]
            depth = len(match[1])
            end = next((i for i, n in enumerate(following) if n.strip() and len(n) - len(n.lstrip()) <= depth), None)
            return " ".join([line[line.index(name) :], *following[: len(following) if end is None else end]])
    return " ".join(part for part in re.split(r"(?<=[.;])\s", text) if re.search(rf"\b{name}\b", part))


def parameters(function: Callable[..., Any]) -> dict[str, str]:
    """The parameters of a function and how they are annotated."""
    found = inspect.signature(function).parameters.values()
    return {p.name: str(p.annotation) for p in found if p.name not in ("self", "cls") and p.kind not in (2, 4)}


def fields(owner: type) -> dict[str, str]:
    """The public fields of a class that are its own, and how they are annotated; or what its own `__init__` takes."""
    if not (dataclasses.is_dataclass(owner) or hasattr(owner, "model_fields") or is_record(owner)):
        takes = "__init__" in vars(owner) and not inspect.isabstract(owner)
        return parameters(owner.__init__) if takes else {}
    inherited = {name for base in owner.__mro__[1:] for name in getattr(base, "__annotations__", {})}
    own = {name: str(kind) for name, kind in inspect.get_annotations(owner).items() if name not in inherited}
    return {name: kind for name, kind in own.items() if not name.startswith("_") and name != "model_config"}


def is_record(owner: type) -> bool:
    """Whether it is a TypedDict."""
    return hasattr(owner, "__total__")


def raised(function: Callable[..., Any]) -> set[str]:
    """The exceptions that a function's own code raises."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = (node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call))
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def test_every_public_name_stands_in_the_reference():
    text = "".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    missing = [name for name in loraweave.__all__ if not re.search(rf"^::: loraweave\.{name}\b", text, re.MULTILINE)]
    assert not missing, f"in loraweave.__all__ and nowhere in docs/reference: {missing}"


@pytest.mark.parametrize("name", SHOWN)
def test_it_has_a_docstring(name):
    text = doc(FUNCTIONS.get(name, SHOWN[name]))
    assert text, f"{name} has no docstring"
    first = text.split("\n\n")[0]
    assert first[-1] in ".:;>)", f"{name}: its first lines are no sentence: {first!r}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_takes_gives_and_raises(name):
    function, text = FUNCTIONS[name], doc(FUNCTIONS[name])
    for parameter, kind in parameters(function).items():
        said = entry(parameter, text)
        assert said, f"{name}: nothing is said of {parameter}"
        check_said(f"{name}({parameter})", parameter, kind, said)
    given = str(inspect.signature(function).return_annotation)
    if "Tensor" in given:
        assert SHAPE.search(text), f"{name}: the shape of what it returns is not said"
    if re.match(r"(?:<class ')?float\b", given):
        assert UNIT.search(text) or SAYS_ITS_UNIT.search(name), f"{name}: what its number counts is not said"
    for error in raised(function):
        assert error in text, f"{name} raises {error}, and its docstring does not say so"


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_describes_its_fields(name):
    owner, text = CLASSES[name], doc(CLASSES[name])
    for field, kind in fields(owner).items():
        if is_record(owner) and ("float" not in kind or SAYS_ITS_UNIT.search(field)):
            continue
        said = entry(field, text) or getattr(getattr(owner, "model_fields", {}).get(field), "description", None)
        assert said, f"{name}: nothing is said of {field}"
        check_said(f"{name}.{field}", field, kind, said)
    for method in ("__init__", "__post_init__"):
        for error in raised(vars(owner)[method]) if method in vars(owner) and is_ours(vars(owner)[method]) else ():
            assert error in text, f"{name} raises {error}, and its docstring does not say so"


def is_ours(function: Any) -> bool:
    """Whether it was written here, and not made by `dataclass` or a library."""
    return inspect.isfunction(function) and "loraweave" in function.__code__.co_filename


def check_said(place: str, name: str, kind: str, said: str) -> None:
    """Fail unless a tensor has its shape, and a float what it counts."""
    if "Tensor" in kind and "Callable" not in kind:
        assert SHAPE.search(said), f"{place}: its shape is not said: {said!r}"
    if re.search(r"\bfloat\b", kind) and not SAYS_ITS_UNIT.search(name):
        assert UNIT.search(said), f"{place}: what the number counts is not said: {said!r}"


@pytest.mark.parametrize("name", FROM_A_PAPER)
def test_what_a_paper_defines_names_the_paper(name):
    value = SHOWN.get(name) or SHOWN[next(shown for shown in SHOWN if shown.endswith(name.rsplit(".", 1)[1]))]
    assert re.search(FROM_A_PAPER[name], doc(value)), f"{name}: its paper is not named"


def test_every_divergence_has_its_source():
    own = {name for name, value in vars(divergences).items() if inspect.isfunction(value) and not name.startswith("_")}
    own = {name for name in own if vars(divergences)[name].__module__ == divergences.__name__}
    assert {f"loraweave.lowrank.divergences.{name}" for name in own} <= set(FROM_A_PAPER)
