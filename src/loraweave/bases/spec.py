"""What a person may say of a base: its name alone, or how it is loaded too."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraweave.bases.quantization import QuantizationName
from loraweave.errors import UserError, shown

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]
BaseName = Union[str, Path, "BaseSpec"]
"""How functions take a base."""


class BaseNotHereError(UserError):
    """There is no base where a name says that it is."""


class BaseSpec(BaseModel):
    """The `model:` of a run file; a plain string means `name` alone.

    Attributes:
        name: "nano", a folder, a .gguf file, or a name on the hub; of a file there, OWNER/REPO/FILE.gguf.
        dtype: of its weights; auto is bfloat16 on a GPU that computes in it, else float32.
        quantization: hold its linear layers in 8 or 4 bits while it is trained on and asked.
        attn: how attention is computed; by default as transformers chooses.
        revision: a branch, tag or commit of a name on the hub.
        trust_code: run Python code that comes with it. It is never saved, and a run file in a run's folder cannot say
            it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    dtype: Dtype = "auto"
    quantization: QuantizationName | None = None
    attn: Attention | None = None
    revision: str | None = Field(default=None, min_length=1)
    trust_code: bool = Field(default=False, exclude=True)

    @classmethod
    def of(cls, given: BaseName, trust_code: bool = False, **others: Any) -> "BaseSpec":
        """A base as a specification.

        Args:
            given: a name, or a specification.
            trust_code: run its code, also where the specification does not say so.
            others: fields to be put in the place of its own.

        Raises:
            UserError: the name is none.
        """
        try:
            spec = given if isinstance(given, cls) else cls(name=str(given))
        except ValidationError:
            raise UserError(
                f"{shown(str(given))} is no base: give a folder, a .gguf file or a name on the hub"
            ) from None
        return spec.model_copy(update={"trust_code": spec.trust_code or trust_code, **others})

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "BaseSpec":
        """The base that a base.json describes."""
        return cls(**{key: record[key] for key in cls.model_fields if key in record and key != "trust_code"})

    def renamed(self, name: BaseName) -> "BaseSpec":
        """Another copy of this base, by its name: loaded in the same way. A specification replaces all of it."""
        return name if isinstance(name, BaseSpec) else self.model_copy(update={"name": str(name), "revision": None})

    def options(self) -> dict[str, str]:
        """How it is loaded, as far as that is not left to the defaults."""
        return {key: value for key, value in self.model_dump(exclude={"name"}).items() if value not in (None, "auto")}

    def __str__(self) -> str:
        """Its name, and in brackets how it is loaded."""
        options = ", ".join(f"{key} {value}" for key, value in self.options().items())
        return f"{self.name} ({options})" if options else self.name
