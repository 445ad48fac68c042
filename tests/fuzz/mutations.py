"""Good files made bad: what a person, an editor or a stranger may have done to one."""

import json
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st

STRANGE = st.sampled_from(
    [
        *(None, True, 0, -1, 1.5, 10**12, 10**30, float("nan"), float("inf"), -0.0, 1e300),
        *("", " ", "x", "nano", "~nobody-here/x", "a\0b", "\ud800", "n" * 300, "../..", "[/b]", "{{ 1/0 }}", "{% for"),
        *("{{ cycler.__init__.__globals__ }}", "(", "(.*.*)*x", "a\nb", "\x1b[2J", "é", "all-linear", "base"),
        *([], {}, [None], [[]], {"": 0}, {"name": []}, ["x", 3], {"x": {"y": {}}}, [1] * 50),
    ]
)
"""Values that no key of any file expects, and some that another key would."""

TEXTS = st.sampled_from(
    [
        *(
            "",
            "\n",
            "[",
            "{",
            "null",
            "3",
            "- 3",
            "'",
            "\t",
            "&a [*a]",
            "? [a]\n: 1",
            "!!python/name:os.system",
            "\x01",
        ),
        *("[" * 2000 + "]" * 2000, "9" * 5000, "NaN", "a: 1\na: 2", "x: !function os.system", "\ufeff{}", "\x00"),
        *("a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]", "<<: 3", "2026-13-45", "!!int x", "\u2028"),
    ]
)


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """Every place in a tree of mappings and lists, as the keys that lead to it."""
    found = [at]
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += places(inner, (*at, key))
    return found


def changed(value: Any, at: tuple, new: Any) -> Any:
    """A copy with another value at a place."""
    if not at:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[at[0]] = changed(value[at[0]], at[1:], new)
    return copied


def without(value: Any, at: tuple) -> Any:
    """A copy without what stands at a place."""
    if len(at) == 1:
        copied = dict(value) if isinstance(value, dict) else list(value)
        del copied[at[0]]
        return copied
    return changed(value, at[:1], without(value[at[0]], at[1:]))


@st.composite
def mutated_tree(draw: st.DrawFn, tree: Any, keys: tuple[str, ...] = ()) -> Any:
    """One or two values put in others' places, taken away, or added under a known or an unknown key."""
    for _ in range(draw(st.integers(1, 2))):
        known = places(tree)
        at = draw(st.sampled_from(known))
        how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if how == "remove" and at:
            tree = without(tree, at)
        elif how == "add":
            mappings = [place for place in known if isinstance(_at(tree, place), dict)]
            if not mappings:
                continue
            inside = draw(st.sampled_from(mappings))
            key = draw(st.sampled_from(keys or ("x",)) | st.sampled_from(["x", "", "name", "é"]))
            tree = changed(tree, inside, {**_at(tree, inside), key: draw(STRANGE)})
        else:
            tree = changed(tree, at, draw(STRANGE))
    return tree


def _at(tree: Any, at: tuple) -> Any:
    for key in at:
        tree = tree[key]
    return tree


@st.composite
def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A file cut off, with some bytes flipped, or with a piece of text put in."""
    how = draw(st.sampled_from(["cut", "flip", "insert", "replace"]))
    place = draw(st.integers(0, max(0, len(content) - 1)))
    if how == "cut":
        return content[:place]
    if how == "replace":
        return draw(TEXTS).encode("utf-8", "surrogatepass")
    if how == "insert":
        return content[:place] + draw(TEXTS).encode("utf-8", "surrogatepass") + content[place:]
    flipped = bytearray(content)
    for _ in range(draw(st.integers(1, 8))):
        if flipped:
            flipped[draw(st.integers(0, len(flipped) - 1))] = draw(st.integers(0, 255))
    return bytes(flipped)


def mutated(content: bytes, read: Callable, write: Callable, keys: tuple[str, ...] = ()) -> st.SearchStrategy[bytes]:
    """A file whose values, or whose bytes, are not what they were."""
    return mutated_tree(read(content), keys).map(write) | mutated_bytes(content)


def as_yaml(tree: Any) -> bytes:
    """YAML of a tree, surrogates escaped."""
    return yaml.safe_dump(tree, allow_unicode=False).encode("utf-8")


def as_json(tree: Any) -> bytes:
    """JSON of a tree, surrogates escaped."""
    return json.dumps(tree).encode("utf-8")
