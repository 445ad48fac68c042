"""A model's config.json for readers from before transformers 5, which keeps how positions are turned in a place of its
own: they pass over that without a word, and turn them by their own default."""

from pathlib import Path
from typing import Any

from loraweave.files import read_json, write_json

_NAMES = {"gpt_neox": ("rotary_emb_base", "rotary_pct")}
_USUAL = ("rope_theta", "partial_rotary_factor")


def say_positions_for_older(folder: Path) -> None:
    """Say in a folder's config.json under the older names, too, what `rope_parameters` says there."""
    path = folder / "config.json"
    content = read_json(path)
    for part in (content, content.get("text_config")):
        found = part.get("rope_parameters") if isinstance(part, dict) else None
        if isinstance(part, dict) and isinstance(found, dict):
            part.update({key: value for key, value in _older(part, found).items() if key not in part})
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
