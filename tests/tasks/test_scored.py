"""Rows of data in lm-eval's hands: its solved examples are those of training, and its answers are compared as said."""

from pathlib import Path

from tiny_tasks import write_jsonl

from loraweave.tasks import load_tasks


def test_solved_examples_are_written_as_those_of_training(tmp_path: Path) -> None:
    pairs = [{"prompt": f"The opposite of {i} is", "completion": f" minus {i}\n"} for i in range(40)]
    named = [{"q": row["prompt"], "a": row["completion"].strip()} for row in pairs]
    for rows, more in ((pairs, {}), (named, {"prompt": "{{q}}", "completion": " {{a}}"})):
        write_jsonl(tmp_path / "mine.jsonl", rows)
        (task,) = load_tasks([{"task": "mine.jsonl", "metric": "exact_match", **more}], tmp_path)
        harness, doc = task.lm_eval, task.lm_eval.eval_docs[0]
        harness.set_fewshot_seed(seed=0)
        shot, question = harness.fewshot_context(doc, num_fewshot=1).split("\n\n")
        assert shot in {f"{each.prompt}{str(each.completion).rstrip()}" for each in task.training_examples()}
        assert question == task.test_examples()[0].prompt
        assert harness.process_results(doc, [str(task.test_examples()[0].completion).strip()]) == {"exact_match": 1}
