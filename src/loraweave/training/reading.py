"""A checkpoint is read as tensors and plain values: nothing that somebody has put into one runs."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch

from loraweave.errors import UserError, in_a_line

_ONLY, _NOT_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_RECORDS = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"
# What torch's list of a sharded checkpoint is made of, beside types of numbers.
_NEEDED = {
    _RECORDS[0]: "Metadata MetadataIndex StorageMeta TensorStorageMetadata BytesStorageMetadata ChunkStorageMetadata "
    "TensorProperties _MEM_FORMAT_ENCODING",
    _RECORDS[1]: "_StorageInfo _StoragePrefix",
    "torch": "Size",
    "torch.serialization": "_get_layout",
    "collections": "OrderedDict",
    "pathlib": "PosixPath WindowsPath",
    "pathlib._local": "PosixPath WindowsPath",
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        number = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if number or name in _NEEDED.get(module, "").split():
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither a tensor nor a plain value")


def _load(file: IO[bytes]) -> Any:
    return _Plain(file).load()


@contextmanager
def plainly(checkpoint: str | Path) -> Iterator[None]:
    """While a checkpoint is read.

    Transformers reads its own files with `weights_only=True`. Torch's reader of sharded ones (FSDP) takes pickles: of
    those, classes that no such checkpoint needs are refused.

    Raises:
        UserError: something in it cannot be read, or is more than tensors and plain values.
    """
    from torch.distributed.checkpoint import CheckpointException, filesystem

    before = {name: os.environ.pop(name, None) for name in (_ONLY, _NOT_ONLY)}
    library = filesystem.pickle
    os.environ[_ONLY] = "1"
    filesystem.pickle = SimpleNamespace(load=_load, dump=pickle.dump)  # type: ignore[assignment]
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, CheckpointException) as error:  # each of the libraries underneath has its own
        cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        more = isinstance(cause, pickle.UnpicklingError)  # in whose message torch says how to let it run
        why = "it holds something else than tensors and plain values" if more else in_a_line(cause)[:300]
        raise UserError(f"{checkpoint}: the run cannot go on from it: {why}") from error
    finally:
        filesystem.pickle = library
        del os.environ[_ONLY]
        os.environ.update({name: value for name, value in before.items() if value is not None})
