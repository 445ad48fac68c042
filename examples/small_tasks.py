"""Three small tasks for the examples beside this file, made on the spot: prompts and completions, a file for each.

Each is learned by the embedded base in a minute. The prompt alone does not say which task it is: a method that is told
the task can tell them apart, and a method that is not has to guess.
"""

import json
import random
from pathlib import Path

ANSWERS = {
    "twice": lambda word: f"{word} {word}",
    "last": lambda word: word[-1],
    "shout": lambda word: f"{word.upper()}!",
}


def write_tasks(folder: Path, train: int = 300, test: int = 30) -> list[dict[str, str]]:
    """Write the files into `folder`; returns the `tasks:` of a run file."""
    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({a + b + c for a in "bdfglmnprst" for b in "aeiou" for c in "bdgklmnprst"})
    random.Random(0).shuffle(words)
    entries = []
    for task, answer in ANSWERS.items():
        rows = [{"prompt": f"{word} ->", "completion": f" {answer(word)}"} for word in words[: train + test]]
        files = {"task": folder.resolve() / f"{task}.jsonl", "test": folder.resolve() / f"{task}_test.jsonl"}
        for file, part in ((files["task"], rows[test:]), (files["test"], rows[:test])):
            file.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
        entries.append({key: str(file) for key, file in files.items()})
    return entries
