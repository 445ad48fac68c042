"""The rows of a file that are kept to score with, where no file of its own is named for that."""

import hashlib
import json

from loraweave.tasks.rows import FileRows

TEST_SHARE = 0.1
TEST_MOST = 500


def rows_for_test(rows: FileRows, share: float | None) -> set[int]:
    """Which rows are for the score alone: 10 % of them, 500 at most, or the `share` asked for.

    What a row says decides, and nothing else: neither the run's seed nor the task's name nor the order of the file, so
    that all runs are asked the same. Rows that say the same stay together. Fewer than three different rows cannot be
    shared out among training, validation and test: then none.
    """
    by_content: dict[str, list[int]] = {}
    for index, row in enumerate(rows.rows):
        said = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
        by_content.setdefault(hashlib.sha256(said.encode()).hexdigest(), []).append(index)
    total = len(rows.rows)
    wanted = min(TEST_MOST, int(TEST_SHARE * total)) if share is None else round(share * total)
    wanted = max(wanted, 1)
    held_out: set[int] = set()
    # One row that stands there a thousand times must not be the whole of what is scored.
    for key in sorted(by_content, key=lambda key: (len(by_content[key]) > wanted, key))[: max(0, len(by_content) - 2)]:
        if len(held_out) >= wanted:
            break
        held_out.update(by_content[key])
    return held_out
