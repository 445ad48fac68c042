"""A results file keeps evaluations apart that were made in different ways."""

from pathlib import Path

from tiny_tasks import write_jsonl

from loraweave.evaluation.beside import Beside
from loraweave.evaluation.record import evaluation_settings, record
from loraweave.files import read_json
from loraweave.runs.config import EvalConfig
from loraweave.tasks import load_tasks


def test_scores_of_chats_and_of_plain_prompts_are_two(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mine.jsonl", [{"prompt": f"{n}", "completion": "x"} for n in range(40)])
    for chat in (True, False, True):
        tasks = load_tasks(["mine.jsonl"], tmp_path, chat_template=chat)
        record(tmp_path / "results.json", evaluation_settings(EvalConfig(), tasks, 0), tasks, Beside({}))
    kept = read_json(tmp_path / "results.json")["evaluations"]
    assert [each["settings"].get("chat_template") for each in kept] == [None, ["mine"]]
