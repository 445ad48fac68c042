"""108: a task with a metric of its own, from a file of yours; what the model sees of it; how often each task is drawn.

    python examples/108_own_task.py [FOLDER] [STEPS]

A task file has the format of lm-evaluation-harness: it makes the training examples and the evaluation, so that a prompt
never differs between the two.
"""

import json
import sys
from pathlib import Path

from small_tasks import write_tasks
from transformers import AutoTokenizer

import loraweave
from loraweave.bases import resolve_base
from loraweave.data.preview import preview
from loraweave.tasks import load_tasks

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/108")
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 100

plain = write_tasks(folder / "data")
lines = (folder / "data" / "last.jsonl").read_text().splitlines()
words = [json.loads(line)["prompt"].split()[0] for line in lines]
rows = [{"word": word, "label": "hard" if word[0] in "bdgpt" else "soft"} for word in words]
for name, part in (("train", rows[40:]), ("test", rows[:40])):
    (folder / "data" / f"sound_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
(folder / "data" / "sound.yaml").write_text("""\
task: sound
dataset_path: json
dataset_kwargs: {data_files: {train: sound_train.jsonl, test: sound_test.jsonl}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "Sound of {{word}}:"
doc_to_choice: [hard, soft]
doc_to_target: label
metric_list: [{metric: acc}]
""")

tasks = [str(folder / "data" / "sound.yaml"), plain[0]]
tokenizer = AutoTokenizer.from_pretrained(resolve_base("nano"))
(sound, _) = load_tasks(tasks, base_dir=Path.cwd())
(shown,) = preview(sound, tokenizer, count=1)
print("prompt and completion:", repr(shown.prompt), repr(shown.completion))
print("tokens with loss:     ", [token.text for token in shown.tokens if token.trained])

run = loraweave.RunConfig(
    model="nano",
    method="rlora",
    tasks=tasks,
    mixture={"strategy": "weights", "weights": {"sound": 3, "twice": 1}},  # three of `sound` for each one of `twice`
    train={"max_steps": steps, "per_device_train_batch_size": 8, "max_length": 64, "learning_rate": 3e-3},
)
result = loraweave.train(run, folder / "run")
for row in result.mixture:
    print(f"{row['task']}: {row['drawn']} drawn")
score = loraweave.evaluate(result.folder, tasks=["sound"]).scores["sound"]
print(f"sound: {score['score']:.0f} % of {score['n']} right ({score['metric']})")
