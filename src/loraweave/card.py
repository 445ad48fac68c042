"""What the model card of a saved adapter says about loading it: PEFT knows its type only after `import loraweave`."""

from pathlib import Path

MARK = "<!-- loraweave -->"
HEADING = "## How to Get Started with the Model"
TEXT = f"""{MARK}
This adapter is of PEFT type `LORAWEAVE` (method `{{method}}`). Loading it needs the package `loraweave`; without the
import PEFT stops with `KeyError: 'LORAWEAVE'`.

```python
import loraweave  # registers the method with PEFT
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({{base!r}})
model = PeftModel.from_pretrained(base, "THIS FOLDER")
```
"""


def add_loading_section(readme: Path, method: str, base: str) -> None:
    """Put the section under PEFT's heading, or at the end; a card that has it, or is not there, stays as it is."""
    if not readme.is_file() or MARK in (card := readme.read_text(encoding="utf-8")):
        return
    section = TEXT.format(method=method, base=base)
    if HEADING in card:
        card = card.replace(HEADING, f"{HEADING}\n\n{section}", 1)
    else:
        card = f"{card.rstrip()}\n\n{HEADING}\n\n{section}"
    readme.write_text(card, encoding="utf-8")
