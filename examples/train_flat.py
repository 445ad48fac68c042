"""A whole multi-task run in one flat script: plain PyTorch and PEFT, with one of Loraweave's methods as the adapter.

    python examples/train_flat.py                       # a minute or two on two cores, with the embedded base
    python examples/train_flat.py --method rlora --steps 600 --output runs/flat

From top to bottom: three tasks, tokens, a mixture, the adapter, the loop with a loss per task, the adapter saved and
loaded again, exact match per task. `loraweave train` does the same from a run file, with all that a real run needs.
"""

import argparse
import random

import torch
from peft import PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from loraweave.bases import resolve_base
from loraweave.config import PRESETS

parser = argparse.ArgumentParser(description="Train one adapter on three small tasks.")
parser.add_argument("--model", default="nano", help="the base: nano, a folder, or a name on the hub")
parser.add_argument("--method", default="mtllora", choices=PRESETS)
parser.add_argument("--steps", type=int, default=400)
parser.add_argument("--batch", type=int, default=24)
parser.add_argument("--learning-rate", type=float, default=3e-3)
parser.add_argument("--temperature", type=float, default=2.0, help="of the mixture: 1 is by size, much is equal")
parser.add_argument("--test", type=int, default=50, help="examples per task that are scored")
parser.add_argument("--output", default="runs/flat")
args = parser.parse_args()

# --- Three tasks of different sizes: prompt and completion.

random.seed(0)
torch.manual_seed(0)
words = sorted({a + b + c for a in "bdfglmnprst" for b in "aeiou" for c in "bdgklmnprst"})
random.shuffle(words)
train_words, test_words = words[args.test :], words[: args.test]
answers = {"twice": "{0} {0}", "last": "{1}", "shout": "{2}!"}
sizes = {"twice": 500, "last": 250, "shout": 125}
train, test = {}, {}
for task, form in answers.items():
    for examples, chosen in ((train, train_words[: sizes[task]]), (test, test_words)):
        examples[task] = [(f"{task} {word}:", " " + form.format(word, word[-1], word.upper())) for word in chosen]

# --- Tokens: the completion and the end of the text are learned, the prompt is not.

folder = resolve_base(args.model)
tokenizer = AutoTokenizer.from_pretrained(folder)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
rows = {}
for task, examples in train.items():
    rows[task] = []
    for prompt, completion in examples:
        context = tokenizer(prompt)["input_ids"]
        answer = tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        rows[task].append((context + answer, [-100] * len(context) + answer))

# --- The mixture: tasks are drawn by their size to the power of 1 / temperature, examples without repetition.

tasks = list(rows)
shares = torch.tensor([len(rows[task]) ** (1 / args.temperature) for task in tasks])
order = {task: [] for task in tasks}

# --- The adapter: an ordinary PEFT method. Of the base nothing is trained and nothing is changed.

device = "cuda" if torch.cuda.is_available() else "cpu"
base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
model = get_peft_model(base, PRESETS[args.method](task_names=tasks, task_type="CAUSAL_LM"))
model.print_trainable_parameters()
optimizer = torch.optim.AdamW(
    [p for p in model.parameters() if p.requires_grad], lr=args.learning_rate, weight_decay=0.0
)
warmup = max(1, args.steps // 30)
schedule = torch.optim.lr_scheduler.SequentialLR(
    optimizer,
    [
        torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, args.steps - warmup)),
    ],
    milestones=[warmup],
)

# --- The loop: rows of all tasks in one batch, each with its own task.

model.train()
for step in range(1, args.steps + 1):
    batch, batch_tasks = [], []
    for number in torch.multinomial(shares, args.batch, replacement=True):
        task = tasks[number]
        if not order[task]:
            order[task] = random.sample(rows[task], len(rows[task]))
        batch.append(order[task].pop())
        batch_tasks.append(task)
    length = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [tokenizer.pad_token_id] * (length - len(ids)) for ids, _ in batch], device=device)
    labels = torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in batch], device=device)
    seen = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in batch], device=device)

    logits = model(input_ids=ids, attention_mask=seen, tasks=batch_tasks).logits
    losses = cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
    scored = labels[:, 1:] != -100
    (losses.sum() / scored.sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()

    if step == 1 or step == args.steps or step % max(1, args.steps // 10) == 0:
        by_task = {}
        for task in tasks:
            own = torch.tensor([name == task for name in batch_tasks], device=device)
            if own.any():
                by_task[task] = (losses[own].sum() / scored[own].sum()).item()  # nats per completion token
        print(f"step {step}", *(f"{task} {loss:.3f}" for task, loss in by_task.items()), sep="  ", flush=True)

# --- Save, load onto a fresh base, and score each task: the answer up to the end of the text, exactly.

model.save_pretrained(args.output)
fresh = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
loaded = PeftModel.from_pretrained(fresh, args.output).eval()
tokenizer.padding_side = "left"
for task, examples in test.items():
    prompts = tokenizer([prompt for prompt, _ in examples], return_tensors="pt", padding=True).to(device)
    with torch.no_grad():
        written = loaded.generate(**prompts, tasks=task, max_new_tokens=12, do_sample=False)
    texts = tokenizer.batch_decode(written[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
    right = sum(text.strip() == completion.strip() for text, (_, completion) in zip(texts, examples, strict=True))
    print(f"{task}: {right / len(examples):.0%} of {len(examples)}, such as {examples[0][0]}{texts[0]}")
print(f"adapter: {args.output}")
