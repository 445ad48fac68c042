"""The ten task files under examples/ work on the real data, where those stand beside the checkout."""

from pathlib import Path

import pytest

from loraweave.data.encode import encode_all
from loraweave.tasks import load_tasks
from loraweave.tasks.chat import Rendered, render

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "tasks"
CLASSES = {"trec": 6, "sst2": 2, "ag_news": 4, "emotion": 6, "snips": 7, "langid": 17}
TEXTS = ("inflect_en", "scan", "wikisql", "mawps")


def test_the_folder_holds_the_ten_tasks() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == {*CLASSES, *TEXTS}


@pytest.mark.parametrize("name", [*CLASSES, *TEXTS])
def test_an_example_task(name: str, shared: Path) -> None:
    (task,) = load_tasks([f"{name}.yaml"], EXAMPLES, data_dir=shared / "data")
    training, validation = task.training_examples(), task.validation_examples()
    assert len(validation) == min(200, int(0.05 * (len(training) + len(validation))))
    answers = {str(example.completion) for example in training}
    assert all(answer.startswith(" ") and "\n" not in answer for answer in answers)
    if name in CLASSES:
        assert len(answers) == CLASSES[name]
        assert "_" not in "".join(answers)
        doc = task.lm_eval.eval_docs[0]
        assert {f" {choice}" for choice in task.lm_eval.doc_to_choice(doc)} == answers
    else:
        doc = task.lm_eval.eval_docs[0]
        answer = str(task.test_examples()[0].completion)
        assert task.lm_eval.process_results(doc, [answer.strip()]) == {"exact_match": 1.0}


def test_example_tasks_fit_the_small_base(shared: Path) -> None:
    from transformers import AutoTokenizer

    if not (shared / "models" / "nano").is_dir():
        pytest.skip("no models/nano in the folder beside the checkout")
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "nano")
    for task in load_tasks(["scan.yaml", "langid.yaml"], EXAMPLES, data_dir=shared / "data"):
        encoded = encode_all(task.test_examples(), tokenizer, 512)
        assert (encoded.cut, encoded.dropped) == (0, 0)
        until = task.lm_eval.config.generation_kwargs
        longest = max(sum(label >= 0 for label in row["labels"]) for row in encoded.rows)
        assert until is None or longest <= until["max_gen_toks"]
        assert isinstance(render(task.test_examples()[0], tokenizer), Rendered)
