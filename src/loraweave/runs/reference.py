"""The page docs/runfile.md: every key of a run file with its type, its default and a line, made from the schema."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from loraweave.config import WeaveConfig
from loraweave.runs.loss_config import LossConfig
from loraweave.runs.schema import Schema, described, run_file_schema
from loraweave.runs.settings import DEFAULTS
from loraweave.runs.train_keys import MEANINGS

HEAD = """# The run file

Every key, as the models in the package have it. `make runfile` prints this page and the JSON schema; a test holds both
against the models. `loraweave check RUN.YAML` says everything that is wrong with a run file and its data at once, and
`loraweave init` writes one for the files of a folder.

Relative paths start at the run file's folder. `--set key.subkey=value` puts a setting over the file's. An editor with a
YAML language server completes keys and marks what is wrong where the first line names the schema, as `init` writes it:

    # yaml-language-server: $schema=FOLDER/loraweave/runs/run.schema.json
"""
METHOD = """A word is one of `loraweave methods`. A mapping has its `name`, and any of that method's fields; without a
name they are knobs of `WeaveConfig`. Each preset has its paper's defaults ([methods](methods/README.md)); those below
are of bare knobs, a plain LoRA. PEFT's own methods, such as `lora` and `dora`, take the fields of its `LoraConfig`."""
TRAIN = """Hugging Face's and TRL's training arguments, by their own names. The most used ones, and all that have a
default of this package:"""
_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
OTHERS = "All others, as Transformers and TRL document them:"


def run_file_page() -> str:
    """The page, as Markdown."""
    top = run_file_schema()
    at = top["properties"]
    parts = [HEAD, *_table(top)]
    parts += ["\n## `model` as a mapping\n", *_table(_mapping(at["model"]))]
    parts += ["\n## `method` as a mapping\n", METHOD, "", *_table(_knobs(_mapping(at["method"])))]
    losses = _some(_mapping(at["method"]), LossConfig.model_fields)
    parts += ["\nLosses beside the language model's, for any method with an adapter:\n", *_table(losses)]
    parts += ["\n## An entry of `tasks` as a mapping\n", *_table(_mapping(at["tasks"]["items"]))]
    parts += ["\n## `mixture` as a mapping\n", *_table(_mapping(at["mixture"]))]
    parts += ["\n## `train`\n", TRAIN, "", *_table(_some(at["train"], MEANINGS))]
    parts += ["", OTHERS, "", *_others(at["train"])]
    parts += ["\n## `eval`\n", *_table(at["eval"])]
    return "\n".join(parts) + "\n"


def _mapping(schema: Schema) -> Schema:
    """What of a key is a mapping."""
    return next(part for part in schema["anyOf"] if part.get("type") == "object")


def _knobs(method: Schema) -> Schema:
    """The fields of bare knobs, with the defaults that they have there."""
    knobs = [name for name in described(WeaveConfig) if name in method["properties"]]
    made = _some(method, ["name", "adapter", "label", *knobs])
    plain = WeaveConfig()
    for name in knobs:
        made["properties"][name] = {**made["properties"][name], "default": getattr(plain, name)}
    return made


def _some(schema: Schema, names: Any) -> Schema:
    return {"properties": {name: schema["properties"][name] for name in names if name in schema["properties"]}}


def _table(schema: Schema) -> Iterator[str]:
    required = schema.get("required", ())
    yield "| key | type | default | what it is |"
    yield "| --- | --- | --- | --- |"
    for name, part in schema["properties"].items():
        default = "needed" if name in required else _default(part)
        yield f"| `{name}` | {_type(part)} | {default} | {_cell(part.get('description', ''))} |"


def _others(train: Schema) -> Iterator[str]:
    yield "| key | type | default |"
    yield "| --- | --- | --- |"
    for name, part in train["properties"].items():
        if name not in MEANINGS:
            yield f"| `{name}` | {_type(part)} | {_default(part)} |"
    assert set(DEFAULTS) <= set(MEANINGS)


def _default(part: Schema) -> str:
    value = part.get("default")
    if value is None or value in ({}, []):
        return "–"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _type(part: Mapping[str, Any]) -> str:
    """A kind of value, in words."""
    bounds = {key: part[key] for key in _BOUNDS if key in part}
    kinds = [_kind({**each, **bounds}) for each in part.get("anyOf") or part.get("oneOf") or [part]]
    return " or ".join(dict.fromkeys(kind for kind in kinds if kind)).replace("|", "\\|")


def _kind(part: Mapping[str, Any]) -> str:
    if "enum" in part or "const" in part:
        words = part.get("enum") or [part["const"]]
        shown = [f"`{'no' if word is False else word}`" for word in words]
        return ", ".join(dict.fromkeys(shown)) if len(shown) <= 12 else f"a word, such as {shown[0]}"
    kind = part.get("type")
    if isinstance(kind, list):
        return " or ".join(filter(None, (_kind({**part, "type": each}) for each in kind)))
    if kind in ("integer", "number"):
        return _number("whole number" if kind == "integer" else "number", part)
    if kind == "array":
        return f"list of {_type(part.get('items') or {})}".replace("list of anything", "list")
    if kind == "object":
        return "mapping"
    return {"string": "text", "boolean": "true or false", "null": "", None: "anything"}[kind]


def _number(word: str, part: Mapping[str, Any]) -> str:
    bounds = [f"{said} {part[key]:,}" for key, said in _BOUNDS.items() if key in part]
    return " ".join([word, *bounds])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
