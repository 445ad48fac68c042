"""From the SVG file that matplotlib writes to an `<svg>` that is part of a page."""

import hashlib
import re
import xml.etree.ElementTree as Tree
from collections import Counter

from markupsafe import Markup, escape

from loraweave.pages.palette import variables

MOST_GROWTH = 1.2  # a wide column shows a figure so much larger than it was drawn
_VARIABLES = {colour.light: f"var(--{name})" for name, colour in variables().items()}
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_REFERENCE = re.compile(r"#([A-Za-z_][\w.-]*)")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_NO_TURN = re.compile(r"rotate\(-?0 [^)]*\)")
_NUMBERS = ("d", "x", "y", "width", "height", "transform", "style")
_PAPER = variables()["paper"].light


def for_page(svg: str, label: str) -> Markup:
    """`svg` with the page's variables for colours and the page's font, short, and with ids of its own.

    Raises:
        ValueError: a colour that is not of the palette.
    """
    root = Tree.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    prefix = "f" + hashlib.blake2b(f"{label}\n{svg}".encode(), digest_size=6).hexdigest()
    _put_in_place(root)
    wanted = {name for element in root.iter() for name in _references(element)}
    inner = "".join(_written(child, wanted, prefix) for child in root)
    box = root.attrib["viewBox"]
    said = Markup('role="img" aria-label="{}"').format(label) if label else Markup('aria-hidden="true"')
    return Markup('<svg class="figure" viewBox="{}" style="max-width: {}px" {}>{}</svg>').format(
        box, f"{float(box.split()[2]) * MOST_GROWTH:.0f}", said, Markup(inner)
    )


def _references(element: Tree.Element) -> list[str]:
    """The ids that an element needs: of clip paths, and of shapes that are used again."""
    found = [element.attrib.get("href", ""), element.attrib.get("clip-path", "")]
    return [name for value in found for name in _REFERENCE.findall(value)]


def _put_in_place(root: Tree.Element) -> None:
    """Shapes that are used once stand where they are used and need no id."""
    shapes = {element.attrib["id"]: element for element in root.iter("path") if "id" in element.attrib}
    uses = Counter(element.attrib["href"][1:] for element in root.iter("use"))
    for element in list(root.iter("use")):
        name = element.attrib["href"][1:]
        if uses[name] == 1 and name in shapes:
            element.tag = "path"
            x, y = element.attrib.pop("x", "0"), element.attrib.pop("y", "0")
            del element.attrib["href"]
            element.attrib |= {"d": shapes[name].attrib["d"], "transform": f"translate({x} {y})"}
            shapes[name].tag = "unused"


def _written(element: Tree.Element, wanted: set[str], prefix: str) -> str:
    """An element as text; groups and definitions that hold nothing or say nothing are left out."""
    if element.tag in ("metadata", "style", "unused"):
        return ""
    inner = "".join(_written(child, wanted, prefix) for child in element)
    text = element.text or ""
    if not element.attrib.get("d", "-").strip() or _is_paper(element):
        return ""
    if "id" not in element.attrib and "fill:" not in element.attrib.get("style", "fill:"):
        raise ValueError("black is not a colour of the palette, so the figure cannot follow the page")
    attributes = {name: _value(name, value, prefix) for name, value in element.attrib.items() if name != "id"}
    if element.attrib.get("id") in wanted:
        attributes["id"] = f"{prefix}-{element.attrib['id']}"
    attributes = {name: value for name, value in attributes.items() if value}
    if element.tag in ("g", "defs") and (not inner or (element.tag == "g" and not attributes)):
        return inner
    opened = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items())
    content = escape(text) if element.tag == "text" else ""
    return (
        f"<{element.tag}{opened}>{content}{inner}</{element.tag}>" if content or inner else f"<{element.tag}{opened}/>"
    )


def _is_paper(element: Tree.Element) -> bool:
    """Whether it is the sheet the figure is drawn on, or an invisible patch: inside a page the page is the paper."""
    css = element.attrib.get("style", "")
    return element.tag == "path" and "stroke" not in css and css.startswith(("fill: none", f"fill: {_PAPER}"))


def _value(name: str, value: str, prefix: str) -> str:
    if name in ("href", "clip-path"):
        return _REFERENCE.sub(rf"#{prefix}-\1", value)
    if name in _NUMBERS:
        value = _LONG_NUMBER.sub(lambda number: f"{float(number.group()):.2f}".rstrip("0").rstrip("."), value)
    if name == "transform":
        return _NO_TURN.sub("", value).strip()
    if name == "d":
        return " ".join(value.split())
    if name == "style":
        rules = dict(rule.strip().split(": ", 1) for rule in value.split(";") if rule.strip())
        rules.pop("font-family", None)
        return _COLOUR.sub(_variable, "; ".join(f"{key}: {said}" for key, said in rules.items()))
    return value


def _variable(colour: re.Match[str]) -> str:
    found = _VARIABLES.get(colour.group().lower())
    if found is None:
        raise ValueError(f"{colour.group()} is not a colour of the palette, so the figure cannot follow the page")
    return found
