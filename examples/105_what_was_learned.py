"""105: read what an adapter learned: how its heads are weighed, how alike they are, how even its updates.

python examples/105_what_was_learned.py [FOLDER] [STEPS]
"""

import json
import sys
from pathlib import Path

from small_tasks import write_tasks

import loraweave
from loraweave.adapters.file import AdapterFile

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/105")
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 100

tasks = write_tasks(folder / "data")
settings = {"max_steps": steps, "per_device_train_batch_size": 8, "max_length": 64, "learning_rate": 3e-3}
runs = {
    method: loraweave.train(
        loraweave.RunConfig(model="nano", method=method, tasks=tasks, train=settings), folder / method
    )
    for method in ("lora", "rlora", "mtllora")
}

# Heads that are weighed by task: the weights are in the adapter itself.
adapter = AdapterFile(runs["mtllora"].adapter)
layer = next(iter(adapter.sizes))
print(f"mtllora, {layer}: the weight of each head (columns) for each task")
for task, weights in zip(adapter.tasks, adapter.formula(layer).head_weights(), strict=True):
    print(f"  {task:6}", *(f"{weight:.2f}" for weight in weights))

# Heads that are weighed token by token: the run recorded what its router did.
record = json.loads((runs["rlora"].folder / "routing.json").read_text())
name, found = next(iter(record["layers"].items()))
print(f"rlora, {name}: mean weight of each head on the tokens of each task")
for task, usage in zip(record["tasks"], found["usage"], strict=True):
    print(f"  {task:6}", *(f"{weight:.2f}" for weight in usage or ()))

analysis = loraweave.analyze([run.folder for run in runs.values()], folder / "analysis")
print("run, rank, effective rank, share of the first direction, likeness of heads, likeness of what they learned")
for row in analysis.overview:
    numbers = (row.effective_rank, row.top_share, row.head_similarity, row.learned_similarity)
    print(f"  {row.run:8} {row.rank:3}", *("    –" if number is None else f"{number:5.2f}" for number in numbers))
print(f"report: {analysis.report}")
