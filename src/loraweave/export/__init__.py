"""A trained adapter as something that others can load: a plain LoRA, a merged model, a file for llama.cpp."""

from loraweave.export.write import Export, export

__all__ = ["Export", "export"]
