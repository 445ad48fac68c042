"""The configuration of an adapter in a folder."""

from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import peft
from peft import LoraConfig, PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import PreTrainedTokenizerBase

from loraweave.adapters.fields import check_fields
from loraweave.config import WeaveConfig
from loraweave.errors import UserError, in_a_line, nearest, shown
from loraweave.files import read_json

NAME = "adapter_config.json"
TOKENIZER = ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja")
"""The files of a tokenizer beside an adapter that `tokenizer_differences` looks at."""
# Starts by which PEFT changes the base's weights, so that the factors by themselves are not the update.
_CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Fields of PEFT's LoRA that leave it what it is by name: two factors and a scaling for every layer.
_PLAIN = frozenset(
    "task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode r target_modules "
    "exclude_modules lora_alpha lora_dropout fan_in_fan_out init_lora_weights use_rslora layers_to_transform "
    "layers_pattern rank_pattern alpha_pattern megatron_core loftq_config eva_config corda_config lora_ga_config "
    "qalora_group_size runtime_config ensure_weight_tying".split()
)


def read_config(folder: Path) -> PeftConfig:
    """The configuration of the adapter in `folder`.

    Raises:
        UserError: there is none, it cannot be read, a field holds what it cannot or is unknown and says something, or
            its method is neither this package's nor PEFT's LoRA.
    """
    if not (folder / NAME).is_file():
        if (folder / "adapter" / NAME).is_file():
            raise UserError(f"{folder}: the folder of a run; its adapter is {folder / 'adapter'}")
        raise UserError(f"{folder}: holds neither a run nor an adapter (no run.yaml, no {NAME})")
    values = read_json(folder / NAME)
    check_fields(values, f"{folder}: {NAME}")
    if values["peft_type"] in ("LORA", "LORAWEAVE"):  # others are refused for what they are
        _check_known(values, f"{folder}: {NAME}")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # what PEFT makes of values that nobody gives
        raise UserError(f"{folder}: {NAME} cannot be read: {in_a_line(error)}") from error
    if type(config) is not LoraConfig and not isinstance(config, WeaveConfig):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise UserError(f"{folder}: an adapter of the method {kind}; only LoRA and this package's can be read")
    return config


def tokenizer_differences(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """What a tokenizer that lies beside an adapter has otherwise than this one, the base's, in words that "than" may
    follow: added tokens, the chat template. Trainers leave it there that save what they trained with. Empty where there
    is none, or none that differs."""
    found = []
    if tokens := _other_tokens(folder, tokenizer):
        more = f" and {len(tokens) - 3} more" if len(tokens) > 3 else ""
        found.append(f"other tokens ({', '.join(map(shown, tokens[:3]))}{more})")
    if _has_other_template(folder, tokenizer):
        found.append("another chat template")
    return " and ".join(found)


def _other_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens added to the one beside an adapter that this one has not, or under another number. That for padding
    is none of them: no text has it."""
    settings, whole = (_read(folder / name) for name in TOKENIZER[:2])
    listed: Any = settings.get("added_tokens_decoder")  # older transformers; newer ones leave it to tokenizer.json
    if isinstance(listed, dict):
        listed = [{"id": number, **token} for number, token in listed.items() if isinstance(token, dict)]
    else:
        listed = whole.get("added_tokens")
    padding = settings.get("pad_token")
    padding = padding.get("content") if isinstance(padding, dict) else padding
    known = tokenizer.get_vocab()
    return [
        str(token.get("content"))
        for token in (listed if isinstance(listed, list) else ())
        if isinstance(token, dict)
        and token.get("content") != padding
        and str(known.get(str(token.get("content")))) != str(token.get("id"))
    ]


def _has_other_template(folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    template = folder / "chat_template.jinja"
    if template.is_file():
        own: Any = template.read_text(encoding="utf-8", errors="replace")
    else:
        own = _read(folder / "tokenizer_config.json").get("chat_template")
    base: Any = tokenizer.chat_template
    if isinstance(base, dict):  # others, such as one for tools, lie in files of their own
        base = base.get("default")
    return isinstance(own, str) and own.strip() != str(base or "").strip()


def _read(path: Path) -> dict[str, Any]:
    """A file of a tokenizer's; empty where there is none, or a broken one, which nothing else here needs."""
    with suppress(UserError):
        return read_json(path) if path.is_file() else {}
    return {}


def _check_known(values: dict[str, Any], where: str) -> None:
    """Raise UserError, with `where` it stands, for a field that PEFT would pass over: a newer one may have written it
    for an adapter that computes something else."""
    known = {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[values["peft_type"]])}
    for name, value in values.items():
        if name not in known and value not in (None, False, "", [], {}):
            raise UserError(
                f"{where}: {name} is {shown(value)}, a field that PEFT {peft.__version__} does not know"
                f"{nearest(name, known)}: the adapter may be more than it seems; take the field out if it is not"
            )


def changes_base(config: PeftConfig) -> bool:
    """Whether PEFT changes the base's own weights where it puts such an adapter on it: a start such as PiSSA's."""
    return str(getattr(config, "init_lora_weights", "")).lower().startswith(_CHANGE_BASE)


def check_lost_start(config: PeftConfig, where: str) -> None:
    """Refuse an adapter that goes with a base which PEFT had changed by numbers that nothing has kept: drawn at random,
    or worked out from data.

    Args:
        where: its configuration is, for the message.

    Raises:
        UserError: it is one.
    """
    start = str(getattr(config, "init_lora_weights", "")).lower()
    if "_niter_" in start or start == "lora_ga":
        raise UserError(
            f"{where}: init_lora_weights is {start!r}: it was trained on a base that this start had changed, by "
            "numbers that nothing has kept; where it was trained, PEFT's save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...) saves what fits the base as it was"
        )


def beyond_plain(config: LoraConfig) -> str | None:
    """What in the configuration of PEFT's LoRA makes it more than two factors and a scaling, in words; None if nothing
    does."""
    default: Any = LoraConfig()
    if config.use_dora:
        return "DoRA"
    if changes_base(config):
        return f"init_lora_weights={config.init_lora_weights!r}, which changes the base,"
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in _PLAIN and value and value != getattr(default, field.name):
            return f"{field.name}={value!r}" if isinstance(value, str) else field.name
    return None
