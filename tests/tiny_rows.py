"""Rows of two tasks, for the tests of training."""

import torch

NAMES = ["short", "long"]


def random_rows(count: int = 12, seed: int = 0) -> tuple[list[dict[str, list[int]]], list[int]]:
    """Rows of two tasks with ids below 60 (`short` uses 10 to 29, `long` 30 to 49), and their task ids."""
    generator = torch.Generator().manual_seed(seed)
    rows, tasks = [], []
    for number in range(count):
        task = number % 2
        prompt, answer = (3 + number % 3, 2) if task == 0 else (8 + number % 5, 4)
        ids = torch.randint(10 + 20 * task, 30 + 20 * task, (prompt + answer,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
        tasks.append(task)
    return rows, tasks
