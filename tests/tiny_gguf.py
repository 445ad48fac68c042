"""A small GGUF file of a random base with its tokenizer, whole or with some of its weights in eight bits."""

from pathlib import Path
from typing import Any

from tiny_project import write_project
from tiny_runs import SMALL, random_run
from tiny_shapes import write_shape

from loraweave.export import export


def write_gguf(folder: Path, rounded: bool = False) -> Path:
    """A Llama of six layers as base.gguf in a folder that also holds it as `shape/`, without its adapter."""
    project = write_project(folder / "project")
    base = write_shape(folder / "shape", "llama", hidden_size=32)
    run = random_run(project, {"name": "lora", **SMALL}, folder / "run", base=base, size=0.0)
    export(run, "gguf-model", folder / "exported")
    path = folder / "base.gguf"
    if rounded:
        _in_eight_bits(folder / "exported" / "model.gguf", path)
    else:
        (folder / "exported" / "model.gguf").rename(path)
    return path


def _in_eight_bits(source: Path, target: Path) -> None:
    """The same file with the matrices that fit in Q8_0."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        values: Any = tensor.data.reshape(tuple(int(n) for n in reversed(tensor.shape)))
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
