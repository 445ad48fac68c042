"""107: a method of your own: knobs combined anew, under a name, with a loss of your own beside the language model's.

    python examples/107_own_method.py [FOLDER] [STEPS]

What stands here as a class and a loop can be used at once with PEFT. CONTRIBUTING.md says how it becomes a method that
`loraweave train` and `compare` know by its name.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from small_tasks import write_tasks
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from loraweave import RunConfig, WeaveConfig, train
from loraweave.bases import resolve_base
from loraweave.tuner import WeaveLinear

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/107")
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 30


@dataclass
class SparseTaskConfig(WeaveConfig):
    """Four heads, of which each task chooses two, beside a diagonal transform of its own."""

    method: str = "sparse_task"
    r: int = 4
    num_heads: int = 4
    gate: str = "task"
    top_k: int | None = 2
    task_transform: str = "diagonal"


def likeness_of_heads(model: torch.nn.Module) -> Tensor:
    """The mean over layers of the mean squared cosine between two heads' B: 0 where all are orthogonal."""
    found = []
    for module in model.modules():
        if isinstance(module, WeaveLinear):
            heads = torch.nn.functional.normalize(module.weave_B["default"].flatten(1), dim=1)
            cosines = heads @ heads.T
            found.append(cosines.square().triu(diagonal=1).sum() / (len(heads) * (len(heads) - 1) / 2))
    return torch.stack(found).mean()


base = resolve_base("nano")
tokenizer = AutoTokenizer.from_pretrained(base)
config = SparseTaskConfig(task_names=["count", "spell"], task_type="CAUSAL_LM")
model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
batch = tokenizer(["one two three four", "o n e t w o", "five six seven", "s i x"], return_tensors="pt", padding=True)
labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
for step in range(steps):
    loss = model(**batch, labels=labels, tasks=["count", "spell", "count", "spell"]).loss
    apart = likeness_of_heads(model)
    (loss + 0.1 * apart).backward()
    optimizer.step()
    optimizer.zero_grad()
    if step in (0, steps - 1):
        print(f"step {step + 1}: loss {loss.item():.3f}, likeness of heads {apart.item():.4f}")

model.save_pretrained(folder / "adapter")  # to load it nobody needs your class: its configuration has the knobs
fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
loaded = PeftModel.from_pretrained(fresh, folder / "adapter").eval()
with torch.no_grad():
    same = torch.equal(loaded(**batch, tasks="spell").logits, model.eval()(**batch, tasks="spell").logits)
print(f"loaded again as {type(loaded.peft_config['default']).__name__}: {'the same' if same else 'other'} logits")

# The same knobs in a run file, without any class, here with the alignment loss that ships with the package:
knobs = {"r": 4, "num_heads": 4, "gate": "task", "top_k": 2, "task_transform": "diagonal"}
run = RunConfig(
    model="nano",
    method={**knobs, "alignment": 0.1},
    tasks=write_tasks(folder / "data"),
    train={"max_steps": steps, "max_length": 64, "learning_rate": 3e-3},
)
print(f"{train(run, folder / 'run').steps} steps of it in {folder / 'run'}")
