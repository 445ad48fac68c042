"""The last net: an error that nobody foresaw is told in one line, and its traceback is kept in a file."""

import errno
import os
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

OF_THE_SYSTEM = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
)
"""What the system refuses a person, wherever in a command that comes up: no fault of a program."""

NAME = "loraweave-traceback-"
_FULL = ("OutOfMemoryError", "can't allocate memory", "not enough memory")  # as torch says it, on GPUs and CPUs
_TRAINING = (
    "lower train.per_device_train_batch_size or train.max_length, or set "
    "train.gradient_checkpointing: true (loraweave train RUN.YAML --dry-run says what a step holds)"
)
_WAY_OUT = {
    **dict.fromkeys(("train", "compare", "quickstart", "experts train"), _TRAINING),
    "eval": "lower eval.batch_size in the run's run.yaml, or load the base in fewer bits",
    "serve": "lower --batch, --context or --cache-gb, or load the base with --dtype bfloat16",
}
"""By command, what needs less memory."""
_OTHERWISE = "it wants a machine with more, or a base that takes less"


def caught(error: BaseException, arguments: Sequence[str]) -> str:
    """What to say of an unforeseen error; its traceback is written to a file, which the message names.

    Args:
        error: as it was raised.
        arguments: of the command, for the file.
    """
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, MemoryError) or any(words in f"{type(error).__name__}: {first}" for words in _FULL):
        words = [word for word in arguments if not word.startswith("-")]
        ways = (_WAY_OUT[command] for command in (" ".join(words[:2]), *words[:1]) if command in _WAY_OUT)
        said = first[:200] or "no more is to be had"
        return f"memory is full: {said}; {next(ways, _OTHERWISE)}"
    kept = _kept(error, arguments)
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    where = f"the traceback is in {kept}; please report it with that file" if kept else "its traceback was not kept"
    return f"a fault of loraweave or of a library underneath, not foreseen ({said[:300]}): {where}"


def _kept(error: BaseException, arguments: Sequence[str]) -> Path | None:
    """The file with the traceback: in the output folder where that was given and holds something, else with the
    temporary files."""
    text = f"loraweave {' '.join(map(ascii, arguments))}\n\n{''.join(traceback.format_exception(error))}"
    for folder in (_output(arguments), None):
        try:
            if folder is None or any(folder.iterdir()):
                handle, path = tempfile.mkstemp(".txt", NAME, folder)
                with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text)
                return Path(path)
        except (OSError, ValueError):  # no such folder, read-only, full
            continue
    return None


def _output(arguments: Sequence[str]) -> Path | None:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == "--output":
            return Path(following)
        if argument.startswith("--output="):
            return Path(argument.partition("=")[2])
    return None
