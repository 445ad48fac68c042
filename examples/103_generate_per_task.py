"""103: say which task: for one prompt, for a batch of several, and for code that cannot pass an argument.

python examples/103_generate_per_task.py [FOLDER] [STEPS]
"""

import sys
from pathlib import Path

from small_tasks import write_tasks
from transformers import pipeline

import loraweave

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/103")
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 150

settings = {"max_steps": steps, "per_device_train_batch_size": 8, "max_length": 64, "learning_rate": 3e-3}
config = loraweave.RunConfig(model="nano", method="mtllora", tasks=write_tasks(folder / "data"), train=settings)
run = loraweave.load_run(loraweave.train(config, folder / "run").folder)
model, tokenizer = run.model, run.tokenizer
tokenizer.padding_side = "left"  # so that every prompt of a batch ends where writing begins


def write(prompts: list[str], tasks: str | list[str]) -> list[str]:
    """What the model goes on with."""
    batch = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
    written = model.generate(**batch, tasks=tasks, max_new_tokens=8, do_sample=False)
    return tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


print("one task for all rows:   ", write(["met ->", "bog ->"], "shout"))
print("a task for each row:     ", write(["met ->", "met ->", "met ->"], ["twice", "last", "shout"]))

pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
with loraweave.task(model, "twice"):  # everything inside, whatever its batches
    print("inside a pipeline:       ", pipe("met ->", max_new_tokens=8, do_sample=False)[0]["generated_text"])

try:
    write(["met ->"], "shuot")
except loraweave.UserError as error:
    print("a name that is not known:", error)
try:
    model.generate(**tokenizer("met ->", return_tensors="pt").to(model.device))
except loraweave.UserError as error:
    print("no task at all:          ", error)
