"""A plain LoRA as PEFT saves one: one rank, one alpha equal to it, nothing that other readers overlook."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel
from torch import nn

from loraweave.adapters.plain import PlainLora
from loraweave.adapters.write import fill
from loraweave.bases import BaseSpec
from loraweave.bases.older import write_for_older
from loraweave.export import vllm
from loraweave.export.source import Source
from loraweave.export.target import TOLERANCE, Work, check_plain
from loraweave.export.variants import Variant
from loraweave.runs.adapting import take_off


def check(source: Source) -> None:
    """Raise UserError if a plain LoRA cannot hold what the adapter is."""
    check_plain(source, "export --to merged instead")


def write(work: Work, variant: Variant, plain: PlainLora | None, folder: Path) -> list[str]:
    """Write a plain LoRA in float32, with the tokenizer; returns what vLLM would refuse."""
    assert plain is not None
    write_lora(plain, folder, work.base, work.source.spec)
    work.tokenizer.save_pretrained(str(folder))
    write_for_older(folder)
    return [f"{vllm.REFUSED}{why}" for why in vllm.problems(plain, work.base.config.model_type)]


def tolerance(source: Source) -> float:
    """The share of the largest logit by which what is read back may differ from the adapter."""
    return TOLERANCE


def write_lora(plain: PlainLora, folder: Path, base: nn.Module, spec: BaseSpec) -> None:
    """Configuration and tensors of a plain LoRA for a base, which `spec` says the name of."""
    config = plain.config(targets(list(plain.pairs), base), spec.name, "CAUSAL_LM", spec.revision)
    fill(folder, config, plain.tensors())


def targets(layers: list[str], base: nn.Module) -> list[str]:
    """What `target_modules` must say: endings such as q_proj where they name the very layers, else whole paths."""
    endings = sorted({layer.rsplit(".", 1)[-1] for layer in layers})
    named = {path for path, _ in base.named_modules() if path.rsplit(".", 1)[-1] in endings}
    return endings if named == set(layers) else sorted(layers)


@contextmanager
def running(work: Work, folder: Path) -> Iterator[PeftModel]:
    """The base with the LoRA in a folder on it, by PEFT alone."""
    model = PeftModel.from_pretrained(work.base, str(folder)).eval()
    try:
        yield model
    finally:
        take_off(model)
