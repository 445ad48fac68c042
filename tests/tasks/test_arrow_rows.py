"""Arrow's values as people wrote them."""

from pathlib import Path

import datasets

from loraweave.tasks import load_tasks


def test_values_of_several_kinds_are_read_as_they_were_saved(tmp_path: Path) -> None:
    rows = [{"question": f"q {i}", "answer": i if i % 2 else f"number {i}"} for i in range(30)]
    mixed = datasets.Dataset.from_list(rows, on_mixed_types="use_json")
    mixed.save_to_disk(tmp_path / "mixed")
    mixed.to_parquet(tmp_path / "mine.parquet")
    calling = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
    asked = [{"messages": [{"role": "user", "content": f"q {i}"}, calling]} for i in range(30)]
    datasets.Dataset.from_list(asked, on_mixed_types="use_json").save_to_disk(tmp_path / "chats")
    for name in ("mixed", "mine.parquet"):
        (task,) = load_tasks([name], tmp_path)
        some = task.training_examples() + task.validation_examples() + task.test_examples()
        assert {example.completion.strip() for example in some} == {str(row["answer"]) for row in rows}
    (task,) = load_tasks(["chats"], tmp_path)
    (call,) = task.training_examples()[0].completion[0]["tool_calls"]
    assert call["function"] == calling["tool_calls"][0]["function"]
