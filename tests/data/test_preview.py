"""What `loraweave tasks` shows: names, sizes, and the tokens that carry loss."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_tasks import make_tokenizer, write_jsonl

from loraweave.data.preview import Listing, list_tasks, preview, summarise
from loraweave.errors import UserError
from loraweave.tasks import load_tasks

WriteTask = Callable[..., Path]


def test_a_summary(write_task: WriteTask) -> None:
    (task,) = load_tasks(["topic.yaml"], write_task().parent)
    summary = summarise(task)
    assert (summary.name, summary.output_type, summary.metrics) == ("topic", "multiple_choice", ["acc"])
    assert summary.splits == {"training": 29, "validation": 1, "test": 12}


def test_a_summary_of_a_task_that_can_only_be_evaluated(write_task: WriteTask, tokenizers: dict[str, Any]) -> None:
    path = write_task()
    path.write_text(path.read_text().replace("training_split: train", ""))
    (task,) = load_tasks(["topic.yaml"], path.parent)
    assert summarise(task).splits == {"training": 0, "validation": 0, "test": 12}
    assert preview(task, tokenizers["bytes"], count=1)[0].prompt == "number 30 of the news\nTopic:"


def test_a_preview_shows_where_the_loss_is(write_task: WriteTask, tokenizers: dict[str, Any]) -> None:
    (task,) = load_tasks(["topic.yaml"], write_task().parent)
    first, second = preview(task, tokenizers["start"], count=2)
    assert first.prompt == task.training_examples()[0].prompt
    assert second.completion == task.training_examples()[1].completion
    assert first.tokens[0].text == "<s>"
    assert "".join(token.text for token in first.tokens if token.trained) == first.completion + "</s>"
    assert "".join(token.text for token in first.tokens[1:] if not token.trained) == first.prompt


@pytest.mark.parametrize("kind", ["bytes", "start", "spaces", "inside", "ends", "chat"])
def test_tokens_say_together_what_is_read_and_learned(kind: str, tmp_path: Path) -> None:
    rows = [{"prompt": "Où est (", "completion": "Paris ): 5 é€"}, {"prompt": "Answer: ", "completion": "ça"}]
    write_jsonl(tmp_path / "rows.jsonl", rows * 10)
    (task,) = load_tasks(["rows.jsonl"], tmp_path)
    tokenizer = make_tokenizer(kind)
    shown = {example.prompt: example for example in preview(task, tokenizer, count=len(task.training_examples()))}
    for row in rows if kind in ("bytes", "start", "chat") else rows[1:]:  # others have no token for every letter
        tokens = shown[row["prompt"]].tokens
        start = tokenizer.bos_token or ""
        read, learned = (
            "".join(token.text for token in tokens if token.trained is with_loss) for with_loss in (False, True)
        )
        assert read.removeprefix(start).removeprefix(" ") == row["prompt"]
        if kind in ("bytes", "start", "chat"):
            assert learned == row["completion"] + tokenizer.eos_token


def test_a_preview_lacks_what_training_does_not_see(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "the quick brown fox " * 9, "completion": "yes"}] * 3)
    (task,) = load_tasks(["rows.jsonl"], tmp_path)
    (shown,) = preview(task, make_tokenizer("start"), count=1, max_length=16)
    assert len(shown.tokens) == 16
    assert "".join(token.text for token in shown.tokens).endswith("brown fox yes</s>")


def test_a_preview_of_a_long_text_has_all_rows_that_it_becomes(tmp_path: Path) -> None:
    text = "the quick brown fox " * 40
    write_jsonl(tmp_path / "rows.jsonl", [{"text": text}])
    (task,) = load_tasks(["rows.jsonl"], tmp_path)
    shown = preview(task, make_tokenizer("start"), count=1_000, max_length=16)
    assert len(shown) > 1
    assert "".join(token.text for each in shown for token in each.tokens if token.trained) == f"{text}</s>"
    assert preview(task, make_tokenizer("start"), count=1, max_length=16) == shown[:1]


def test_a_preview_passes_over_what_training_leaves_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}", "completion": "no " * (40 if n % 2 else 1)} for n in range(8)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (task,) = load_tasks(["rows.jsonl"], tmp_path)
    shown = preview(task, make_tokenizer("start"), count=8, max_length=16)
    assert [each.prompt for each in shown] == [
        example.prompt for example in task.training_examples() if example.completion == "no "
    ]
    with pytest.raises(UserError, match="every answer is longer than the sequence length of 2 tokens"):
        preview(task, make_tokenizer("start"), max_length=2)


def test_files_in_a_folder_are_listed(write_task: WriteTask) -> None:
    path = write_task()
    (path.parent / "_common.yaml").write_text("output_type: multiple_choice\n")
    assert list_tasks(folders=[path.parent], builtin=False) == [Listing("topic", "file", str(path))]
    assert list_tasks("other", folders=[path.parent], builtin=False) == []
    with pytest.raises(UserError, match="no such folder"):
        list_tasks(folders=[path.parent / "nowhere"], builtin=False)


def test_what_lm_eval_ships_is_listed_and_a_wrong_name_gets_the_nearest(tmp_path: Path) -> None:
    found = list_tasks("boolq")
    assert {"boolq", "boolq-seq2seq"} <= {listing.name for listing in found if listing.kind == "task"}
    assert list_tasks("mmlu_*")[0].where.endswith(".yaml")
    with pytest.raises(UserError, match=r"lm-eval has no task 'hellaswagg', did you mean 'hellaswag'\?"):
        load_tasks(["hellaswagg"], tmp_path)
