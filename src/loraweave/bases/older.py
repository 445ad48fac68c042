"""What transformers 5 saves, for readers from before it.

How positions are turned, and in what dtype the weights are, it keeps in places of its own: they pass over these without
a word, and take their own defaults. The name that it has for most tokenizers they do not know.
"""

from pathlib import Path
from typing import Any

from loraweave.files import read_json, write_json

_NAMES = {"gpt_neox": ("rotary_emb_base", "rotary_pct")}
_USUAL = ("rope_theta", "partial_rotary_factor")


def write_for_older(folder: Path) -> None:
    """Make older readers understand a folder that has been saved: its config.json, where it has one, says under the
    older names, too, what `rope_parameters` and `dtype` say; its tokenizer, where it has one, is called as they call
    it, which newer ones understand."""
    if (path := folder / "config.json").is_file():
        _write_config(path)
    if (path := folder / "tokenizer_config.json").is_file():
        _write_tokenizer(path)


def _write_config(path: Path) -> None:
    content = read_json(path)
    for part in (content, content.get("text_config")):
        if not isinstance(part, dict):
            continue
        if "dtype" in part:
            part.setdefault("torch_dtype", part["dtype"])
        if isinstance(found := part.get("rope_parameters"), dict):
            part.update({key: value for key, value in _older(part, found).items() if key not in part})
    write_json(path, dict(sorted(content.items())))


def _write_tokenizer(path: Path) -> None:
    content = read_json(path)
    if content.get("tokenizer_class") == "TokenizersBackend":
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(content.get("extra_special_tokens"), list):
        content["additional_special_tokens"] = content.pop("extra_special_tokens")
    write_json(path, dict(sorted(content.items())))


def _older(part: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The older fields; of a base whose layers differ those of the layers that see everything."""
    said: dict[str, Any] = {}
    kind = str(part.get("model_type"))
    if isinstance(whole := found.get("full_attention"), dict):
        window = found.get("sliding_attention") or {}
        if kind.startswith("gemma3") and "rope_theta" in window:
            said["rope_local_base_freq"] = window["rope_theta"]
        found = whole
    if "rope_theta" not in found:
        return {}
    names = dict(zip(_USUAL, _NAMES.get(kind, _USUAL), strict=True))
    said |= {older: found[name] for name, older in names.items() if name in found}
    if found.get("rope_type", "default") != "default":
        said["rope_scaling"] = {name: value for name, value in found.items() if name not in _USUAL}
    return said
