"""A GGUF file as a base: llama.cpp's format, which transformers unpacks into ordinary weights."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import cached_file

from loraweave.bases.spec import BaseNotHereError
from loraweave.errors import UserError, in_a_line, nearest

SUFFIX = ".gguf"
LONGEST = 2**22
"""Elements that a list in a file's head may have; the largest vocabularies have some hundred thousand."""


def import_gguf(what: str = "--to gguf") -> Any:
    """The `gguf` package.

    Args:
        what: needs it, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UserError(f"{what} needs the package gguf: pip install 'loraweave[gguf]'") from error
    return gguf


def existing_gguf(path: Path) -> Path:
    """A path that ends in .gguf, if a file is there; else BaseNotHereError with the nearest name in its folder."""
    if path.is_file():
        return path
    beside = [each.name for each in path.parent.glob(f"*{SUFFIX}")] if path.parent.is_dir() else []
    hint = nearest(path.name, beside)
    raise BaseNotHereError(f"{path}: no such file, so no base model can be loaded from it{hint}")


def gguf_path(name: str, revision: str | None = None) -> Path:
    """Where the GGUF file of a base is: its own path, or that to which OWNER/REPOSITORY/FILE of the hub is fetched.

    Raises:
        UserError: it is not there.
    """
    if (path := Path(name)).is_file():
        return path
    owner, repository, file = name.split("/", 2)
    try:
        return Path(cached_file(f"{owner}/{repository}", file, revision=revision))
    except OSError as error:
        raise UserError(f"{name}: {in_a_line(error)}") from error


def check_gguf(path: Path) -> None:
    """Raise UserError unless all that the head of a GGUF file promises is there.

    The library reads as many elements as a file says that it has, and goes on for ever behind its end.
    """
    found = path.stat()
    _kinds_of_tensors(path, found.st_mtime_ns, found.st_size)


def holds_rounded_weights(path: Path) -> bool:
    """Whether a GGUF file keeps weights in fewer bits than a half-precision number has.

    Raises:
        UserError: as `check_gguf`.
    """
    found = path.stat()
    whole = {"F64", "F32", "F16", "BF16"}
    return not whole.issuperset(_kinds_of_tensors(path, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=8)
def _kinds_of_tensors(path: Path, changed: int, size: int) -> frozenset[str]:
    """The kinds of numbers in a file that was last `changed` then and has that `size`."""
    gguf = import_gguf(f"{path}: a GGUF base")

    class Reader(gguf.GGUFReader):  # type: ignore[misc,name-defined]
        def _get(self, offset: int, dtype: Any, count: int = 1, *args: Any, **kwargs: Any) -> Any:
            found = super()._get(offset, dtype, count, *args, **kwargs)
            if len(found) < count:
                raise ValueError(f"it ends before the {int(count):,} elements that it announces at byte {offset:,}")
            return found

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type == gguf.GGUFValueType.ARRAY:
                length = int(self._get(orig_offs + 4, "uint64")[0])
                if length > LONGEST:
                    raise ValueError(f"it announces a list of {length:,} elements")
            return super()._get_field_parts(orig_offs, raw_type)

    try:
        return frozenset(tensor.tensor_type.name for tensor in Reader(path).tensors)
    except Exception as error:  # whatever the library runs into
        raise UserError(f"{path}: the GGUF file cannot be loaded: {in_a_line(error)[:300]}") from error


def as_plain_model(model: PreTrainedModel, path: str) -> None:
    """Let a model that was unpacked from a GGUF file be what it is, a plain one: transformers marks it as quantised and
    would neither train nor save it, and names it after the folder."""
    for name in ("hf_quantizer", "quantization_method"):
        model.__dict__.pop(name, None)
    model.is_quantized = False
    model.config.__dict__.pop("quantization_config", None)
    model.name_or_path = model.config.name_or_path = path  # PEFT records the first
