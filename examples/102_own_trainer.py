"""102: a multi-task method in a trainer of your own, here TRL's SFTTrainer; each row with its own task.

    python examples/102_own_trainer.py [FOLDER] [STEPS]

The adapter is an ordinary PEFT method, so methods that need no task (multilora, hydralora, rlora, mlora) go into any
trainer as they are. For those that do, `with_tasks` makes the trainer hand on a column of the data. docs/tasks.md has
DPO and GRPO.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from peft import get_peft_model
from small_tasks import write_tasks
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import loraweave
from loraweave.bases import resolve_base

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/102")
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 100

write_tasks(folder / "data")
tasks = ["twice", "last", "shout"]
lines = {task: (folder / "data" / f"{task}.jsonl").read_text().splitlines() for task in tasks}
rows = [{**json.loads(line), "task": task} for task in tasks for line in lines[task]]  # prompt, completion, task

base = resolve_base("nano")  # its folder; with a model of your own, its name
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = get_peft_model(model, loraweave.MtlLoraConfig(task_names=tasks, task_type="CAUSAL_LM"))

trainer = loraweave.with_tasks(SFTTrainer)(
    model=model,
    args=SFTConfig(
        str(folder / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        logging_steps=max(1, steps // 5),
        save_strategy="no",
        report_to="none",
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
    ),
    train_dataset=Dataset.from_list(rows),
    processing_class=tokenizer,
)
trainer.train()
model.save_pretrained(folder / "adapter")
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last; adapter in {folder / 'adapter'}")
