"""What the model card of a saved adapter says about loading it: PEFT knows its type only after `import loraweave`."""

import re
from pathlib import Path

from huggingface_hub import ModelCard

MARK = "<!-- loraweave -->"
HEADING = "## How to Get Started with the Model"
TEXT = f"""{MARK}
This adapter is of PEFT type `LORAWEAVE` (method `{{method}}`). Loading it needs the package `loraweave`; without the
import PEFT stops with `KeyError: 'LORAWEAVE'`.

```python
import loraweave  # registers the method with PEFT
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({{base}})
model = PeftModel.from_pretrained(base, "THIS ADAPTER")  # its folder, or its name on the Hub
```
"""
TASKS = """
It needs the task of each sequence: `model(..., tasks=...)` and `model.generate(..., tasks=...)`, one of {tasks}.
"""


def base_arguments(base: str, revision: str | None = None) -> str:
    """What `from_pretrained` is given for a base, as code: of a GGUF file its folder, or its repository, apart."""
    given, more = base, ""
    if base.endswith(".gguf"):
        local = Path(base).is_absolute() or base.count("/") < 2
        head, file = base.rsplit("/", 1) if local else ("/".join(base.split("/")[:2]), base.split("/", 2)[2])
        given, more = head, f", gguf_file={file!r}"
    return f"{given!r}{more}{f', revision={revision!r}' if revision else ''}"


def add_loading_section(
    folder: Path, method: str, base: str, tasks: list[str] | None, revision: str | None = None
) -> None:
    """Complete PEFT's card of the adapter saved in `folder`: how to load it, and the method as a tag.

    The card of an adapter that is not named "default" is in the folder above. A card that is none of PEFT's stays as it
    is, and so does a section that is there.

    Args:
        folder: where the adapter's configuration was saved.
        method, base: the preset and the base model.
        tasks: the tasks to choose from, for a method that needs to know them.
        revision: of the base on the hub, where one was named.
    """
    here = (folder / "README.md", folder.resolve().parent / "README.md")
    readme = next((path for path in here if path.is_file()), None)
    if readme is None or not re.search(r"^library_name: peft$", readme.read_text(encoding="utf-8"), re.MULTILINE):
        return
    card = ModelCard.load(readme)
    card.data["tags"] = sorted({*(card.data.get("tags") or ()), "loraweave", method})
    if MARK not in card.text:
        section = TEXT.format(method=method, base=base_arguments(base, revision))
        if tasks:
            section += TASKS.format(tasks=", ".join(f"`{task}`" for task in tasks))
        if HEADING in card.text:
            card.text = card.text.replace(HEADING, f"{HEADING}\n\n{section}", 1)
        else:
            card.text = f"{card.text.rstrip()}\n\n{HEADING}\n\n{section}"
    card.save(readme)
