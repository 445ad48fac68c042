"""101: train one adapter on three tasks from Python, score it, load it again and ask it something.

    python examples/101_train_from_python.py [FOLDER] [STEPS]

The same as a run file with `loraweave train` and `loraweave eval`; `RunConfig.save` writes that file.
"""

import sys
from pathlib import Path

from small_tasks import write_tasks

from loraweave import RunConfig, evaluate, load_run, train

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/101")
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 150

config = RunConfig(
    model="nano",  # the base that ships with the package; else a hub name or a folder
    method="mtllora",
    tasks=write_tasks(folder / "data"),
    mixture="equal",
    train={"max_steps": steps, "per_device_train_batch_size": 8, "max_length": 64, "learning_rate": 3e-3},
)
config.save(folder / "run.yaml")

result = train(config, folder / "run")
print(f"{result.steps} steps, {result.trainable_parameters:,} trained parameters, adapter in {result.adapter}")
for task in result.mixture:
    print(f"  {task['task']}: {task['drawn']} examples drawn, {task['tokens']} tokens")

scores = evaluate(result.folder).scores  # files of prompts and completions are scored by their held-out loss
for task, score in scores.items():
    print(f"  {task}: {score['score']:.3f} {score['unit']} per token over {score['n']} examples")

run = load_run(result.folder)
prompt = run.tokenizer("met ->", return_tensors="pt").to(run.model.device)
for task in scores:
    written = run.model.generate(**prompt, tasks=task, max_new_tokens=8, do_sample=False)
    print(f"  {task}: {run.tokenizer.decode(written[0], skip_special_tokens=True)}")
