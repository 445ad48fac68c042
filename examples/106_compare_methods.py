"""106: which method is better, and how sure is that: methods × seeds on the same data.

    python examples/106_compare_methods.py [FOLDER] [STEPS]

In earnest take three seeds or more, `learning_rates=["0.5x", "1x", "2x"]` with `widen=True`, and `match_params=True`:
see docs/comparing.md. `resume=True` goes on after a stop, and takes more methods and seeds.
"""

import sys
from pathlib import Path

from small_tasks import write_tasks

from loraweave import RunConfig, compare

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/106")
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 100

config = RunConfig(
    model="nano",
    tasks=write_tasks(folder / "data"),
    train={"max_steps": steps, "per_device_train_batch_size": 8, "max_length": 64, "learning_rate": 3e-3},
)
found = compare(config, ["lora", "mtllora"], seeds=[0, 1], output=folder / "comparison")

for method, scores in found.scores.items():  # of these files: nats per token, less is better
    print(f"{method:8}", *(f"{task} {score:.3f}" for task, score in scores.items()))
for row in found.results["differences"]:
    for task, difference in row["tasks"].items():
        print(f"{row['method']} against {found.results['reference']} on {task}: {difference['verdict']}")
print(found.results["recommendation"]["text"])
print(f"page: {found.page}")
