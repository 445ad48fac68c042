"""What becomes of a trained adapter: whether it is a plain LoRA, merges, who serves it, and what to type next."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig, PeftConfig

from loraweave.adapters.config import beyond_plain
from loraweave.config import WeaveConfig
from loraweave.runs.methods import ChosenMethod

BESIDE_BLOCKS = ("mtlora",)
"""Presets whose adapters lie beside whole blocks of the base."""


@dataclass(frozen=True)
class Outlook:
    """What can be done with an adapter of a method, in words.

    Attributes:
        lora: whether a plain LoRA does the same (`export --to lora`).
        merged: whether full weights do (`export --to merged`).
        served: who else serves it: vLLM, SGLang, TGI and llama.cpp take plain LoRAs and merged models.
        why: a sentence for what it cannot be; empty where it can be all of these.
        by_task: an export is a folder for each task.
        averaged: an export is one for each task that is named, with the heads' mean weights, and measured.
        exports: the targets of `loraweave export` that are worth a line.
    """

    lora: str
    merged: str
    served: str
    why: str = ""
    by_task: bool = False
    averaged: bool = False
    exports: tuple[str, ...] = ("lora", "merged")

    def commands(self, run: str, tasks: Sequence[str], trust_code: bool = False) -> list[tuple[str, str]]:
        """What can be typed next, each with a word for what it does.

        Args:
            run: the folder of the finished run.
            tasks: its tasks.
            trust_code: it was trained with code of task files or of its base, which a run does not remember.
        """
        found = [("evaluate", ["eval", run])]
        found += [("talk", ["chat", run])] if self.exports or self.served == HERE else []
        for to in self.exports:
            task = ["--task", tasks[0]] if self.averaged and tasks else []
            found.append((to, ["export", run, "--to", to, *task, "--output", f"{run}-{to}"]))
        if self.served == HERE:
            found.append(("serve", ["serve", run]))
        trust = ["--trust-code"] if trust_code else []
        return [(word, shlex.join(["loraweave", *words, *trust])) for word, words in found]


HERE = "loraweave serve"
NOTHING = Outlook("–", "–", "–", exports=())


def outlook(chosen: ChosenMethod, adapter: PeftConfig | None = None) -> Outlook:
    """What becomes of an adapter of a method.

    Args:
        chosen: the method, with what a run file sets of it.
        adapter: its configuration as it was put on a base; as the method has it when None.
    """
    method = chosen.method
    if method.trains == "nothing":
        return NOTHING
    if method.trains == "everything":
        why = "Every weight is trained: what comes out is a model."
        return Outlook("no", "is a model", "as a model", why, exports=())
    config: Any = adapter or chosen.peft_config()
    if method.name in BESIDE_BLOCKS if adapter is None else getattr(config, "beside_blocks", False):
        why = "It lies beside whole blocks and changes no weight, so nothing can be merged or exported."
        return Outlook("no", "no", HERE, why, exports=())
    if getattr(config, "use_dora", False):
        why = "DoRA rescales the rows of the weights, so no plain LoRA does the same; it merges."
        return Outlook("no", "yes", "merged", why, exports=("merged",))
    if config.modules_to_save or getattr(config, "bias", "none") != "none":
        why = "More than its layers is trained (modules_to_save or biases), so no plain LoRA does the same; it merges."
        return Outlook("no", "yes", "merged", why, exports=("merged",))
    if not isinstance(config, WeaveConfig):
        return _of_lora(config)
    if config.depends_on_input:
        why = (
            "A router weighs its heads by every token, so no LoRA and no merged model do the same; an export for a task"
            " has their mean weights on its data, and what that costs is measured."
        )
        return Outlook("no: depends on x", "no: depends on x", HERE, why, averaged=True, exports=("lora",))
    if config.needs_tasks:
        why = "It differs by task, so an export is a LoRA, or a model, for each of them: exact, a folder each."
        return Outlook("for each task", "for each task", "for each task", why, by_task=True)
    return Outlook("yes", "yes", "yes")


def _of_lora(config: LoraConfig) -> Outlook:
    """Of PEFT's own LoRA, which may be more than one by other fields."""
    odd = beyond_plain(config)
    if odd is None:
        return Outlook("is one", "yes", "yes")
    if config.layer_replication:
        why = "layer_replication builds a base of other layers, so nothing can be merged or exported."
        return Outlook("no", "no", HERE, why, exports=())
    odd = "It adapts weights that are no layers (experts), so" if config.target_parameters else f"With {odd}"
    return Outlook("no", "yes", "merged", f"{odd} no plain LoRA does the same; it merges.", exports=("merged",))
