"""What every kind of export offers: refuse, write, and run what was written."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraweave.adapters.plain import PlainLora
from loraweave.errors import UserError
from loraweave.export.source import Source
from loraweave.export.variants import Variant

TOLERANCE = 1e-3
"""The share of the largest logit by which an exact export may differ, in float32 and after many layers."""


@dataclass(frozen=True)
class Work:
    """What is at hand while something is written.

    Attributes:
        source: what is exported.
        base: its base, in float32 and untouched.
        tokenizer: the base's.
        fingerprint: of the base.
    """

    source: Source
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str


class Target(Protocol):
    """A kind of export; a module each."""

    def check(self, source: Source) -> None:
        """Raise UserError if what is exported cannot become one of these."""

    def write(self, work: Work, variant: Variant, plain: PlainLora | None, folder: Path) -> list[str]:
        """Write one into a folder that is there; returns what a person should know. `plain`: None where the adapter is
        no plain change of linear layers."""

    def tolerance(self, source: Source) -> float:
        """The share of the largest logit by which what is read back may differ from the adapter."""

    def running(self, work: Work, folder: Path) -> AbstractContextManager[PreTrainedModel | PeftModel]:
        """The model as it is read back from a folder."""


def check_plain(source: Source, instead: str) -> None:
    """Raise UserError, naming what to do `instead`, if a plain LoRA cannot hold what the adapter is."""
    if source.unfixed:
        raise UserError(f"{source.adapter.folder}: {source.unfixed}, so no plain LoRA does the same; {instead}")
