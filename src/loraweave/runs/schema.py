"""A run file described from the models that read it: a JSON schema for editors, and a page for people."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter
from trl import SFTConfig

from loraweave.bases.spec import BaseSpec
from loraweave.config import WeaveConfig
from loraweave.data.mixture import MixtureConfig
from loraweave.runs.config import EvalConfig, RunConfig
from loraweave.runs.fields import field_hint
from loraweave.runs.loss_config import LossConfig
from loraweave.runs.methods import METHODS
from loraweave.runs.settings import DEFAULTS, KNOWN, ONLY, train_bounds, train_hints
from loraweave.runs.train_keys import MEANINGS
from loraweave.tasks.spec import TaskSpec

FILE = Path(__file__).with_name("run.schema.json")
"""The schema as it ships."""

Schema = dict[str, Any]


def described(owner: type) -> dict[str, str]:
    """What is said of each field of a class, in one line: by pydantic's description, or in its docstring."""
    said = {}
    for cls in reversed(owner.__mro__):
        if cls.__module__.startswith("loraweave"):
            section = re.search(
                r"^ *(?:Args|Attributes):\n(.*?)(?:\n\n|\Z)", cls.__doc__ or "", re.DOTALL | re.MULTILINE
            )
            for entry in re.split(r"\n(?= {8}\w+: )", f"\n{section[1]}" if section else ""):
                if match := re.match(r"\s*(\w+): (.*)", entry, re.DOTALL):
                    said[match[1]] = " ".join(match[2].split()).rstrip(".")
    for name, field in getattr(owner, "model_fields", {}).items():
        if field.description:
            said[name] = field.description
    return said


@cache
def run_file_schema() -> Schema:
    """The JSON schema (draft 7) of run files."""
    schema = _of_model(RunConfig)
    at = schema["properties"]
    at["model"]["anyOf"] = [{"type": "string"}, _of_model(BaseSpec)]
    at["method"]["anyOf"] = [{"enum": list(METHODS)}, _of_method()]
    at["tasks"]["items"] = {"anyOf": [{"type": "string"}, _of_model(TaskSpec)]}
    strategies = get_args(MixtureConfig.model_fields["strategy"].annotation)
    at["mixture"] = {**_about(at["mixture"]), "anyOf": [{"enum": list(strategies)}, _of_model(MixtureConfig)]}
    at["eval"] = {**_about(at["eval"]), **_of_model(EvalConfig)}
    at["train"] = {**_about(at["train"]), **_of_train()}
    for key in ("model", "method"):
        at[key].pop("oneOf", None)
    title = "A run file of Loraweave"
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": title, **schema}


def _about(schema: Schema) -> Schema:
    return {key: schema[key] for key in ("description", "default") if key in schema}


def _of_model(model: type[BaseModel]) -> Schema:
    """The schema of one of our models, with what is said of its fields."""
    made = _plain(model.model_json_schema())
    said = described(model)
    properties = {name: {**part, "description": said[name]} for name, part in made["properties"].items()}
    found = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**found, "required": made["required"]} if "required" in made else found


def _of_method() -> Schema:
    """A method as a mapping: its name, and the fields of any. Which fields go with which is for `loraweave check`."""
    names: Schema = {"name": {"enum": list(METHODS), "description": "the method; without it, the fields are knobs"}}
    names["adapter"] = {"type": "string", "description": "the folder of an adapter to train on, as it is configured"}
    names["label"] = {"type": "string", "description": "what it is called beside others of its kind in a comparison"}
    said = {**described(LossConfig), **described(WeaveConfig)}
    kinds: dict[str, list[Schema]] = {}
    for method in METHODS.values():
        for name in method.fields():
            part = _of_hint(field_hint(method.config_class, name))
            if name not in LossConfig.model_fields and part not in kinds.setdefault(name, []):
                kinds[name].append(part)
    for name, parts in kinds.items():
        part = parts[0] if len(parts) == 1 else {"anyOf": parts}
        names[name] = {**part, **({"description": said[name]} if name in said else {})}
    for name, part in _of_model(LossConfig)["properties"].items():
        names[name] = part
    return {"type": "object", "additionalProperties": False, "properties": names}


def _of_train() -> Schema:
    properties = {}
    for field in fields(SFTConfig):
        if field.name in KNOWN:
            part = _of_hint(train_hints()[field.name])
            default = DEFAULTS.get(field.name, field.default)
            if default is not MISSING and isinstance(default, (str, int, float, bool)):
                part["default"] = default
            properties[field.name] = {**part, **_meaning(field.name), **train_bounds(field.name)}
    properties[ONLY] = {"enum": ["router", None], **_meaning(ONLY)}
    rate = properties["learning_rate"]
    properties["learning_rate"] = {
        **_meaning("learning_rate"),
        "anyOf": [{"type": rate["type"]}, {"type": "object", "additionalProperties": {"type": "number"}}],
    }
    for key in ("eval_strategy", "save_strategy", "logging_strategy"):  # YAML reads `no` as false
        properties[key] = {**_about(properties[key]), "enum": [*properties[key]["enum"], False]}
    properties["fsdp"] = {**_about(properties["fsdp"]), "type": ["string", "boolean", "null"]}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _meaning(key: str) -> Schema:
    return {"description": MEANINGS[key]} if key in MEANINGS else {}


def _of_hint(hint: Any) -> Schema:
    return {} if hint is None else _plain(TypeAdapter(hint).json_schema())


def _plain(schema: Any, known: Mapping[str, Any] | None = None) -> Any:
    """A schema without references and titles; where the words of an enumeration are known, no other text will do."""
    if isinstance(schema, list):
        return [_plain(part, known) for part in schema]
    if not isinstance(schema, dict):
        return schema
    known = known or schema.get("$defs", {})
    if "$ref" in schema:
        target = known[schema["$ref"].rpartition("/")[2]]
        return _plain({key: part for key, part in target.items() if key != "description"}, known)
    named = {"properties"}
    found = {
        key: {name: _plain(inner, known) for name, inner in part.items()} if key in named else _plain(part, known)
        for key, part in schema.items()
        if key not in ("$defs", "title") or not isinstance(part, (str, dict))
    }
    choices = found.get("anyOf", [])
    if any("enum" in part for part in choices):
        choices = [part for part in choices if part != {"type": "string"}]
        found |= choices[0] if len(choices) == 1 else {"anyOf": choices}
        if len(choices) == 1:
            del found["anyOf"]
    return found
