"""Tasks that are made of data alone are scored: texts in bits per byte, labels by rank, answers as they are written."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tasks import write_jsonl

from loraweave.data.encode import encode
from loraweave.errors import UserError
from loraweave.evaluation import evaluate
from loraweave.evaluation.lm import LoadedModel
from loraweave.evaluation.outcomes import read_outcomes
from loraweave.evaluation.predict import predict_rows
from loraweave.tasks import load_tasks


def likelihood(model: Any, tokenizer: Any, example: Any) -> float:
    """The log-probability of what an example teaches, token by token."""
    row = encode(example, tokenizer, 10_000)
    ids, labels = (torch.tensor([row[key]]) for key in ("input_ids", "labels"))
    with torch.no_grad():
        logs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return sum(float(logs[i, label]) for i, label in enumerate(labels[0, 1:].tolist()) if label >= 0)


@pytest.mark.parametrize("start", [False, True])
def test_a_text_is_scored_in_bits_per_byte(start: bool, base: Any, tmp_path: Path) -> None:
    model, tokenizer = base
    if start:  # a start that the tokenizer itself puts before a text is read, once, and not scored
        from tokenizers.processors import TemplateProcessing

        mark = tokenizer.convert_ids_to_tokens(5)
        tokenizer.bos_token = mark
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(f"{mark} $A", special_tokens=[(mark, 5)])
    words = ["note", "remember", "double", "even"]
    rows = [{"text": " ".join(words[(i + j) % 4] for j in range(2 + i % 3)) + f" {i}"} for i in range(12)]
    write_jsonl(tmp_path / "texts.jsonl", rows)
    (task,) = load_tasks([{"task": "texts.jsonl", "test": 0.4}], tmp_path)
    (score,) = evaluate(model, tokenizer, [task]).values()
    examples = [type(example)(example.prompt, example.completion, ends=False) for example in task.test_examples()]
    bits = [-likelihood(model, tokenizer, example) / math.log(2) for example in examples]
    sizes = [len(example.completion.encode()) for example in examples]
    assert score["score"] == pytest.approx(sum(bits) / sum(sizes), rel=1e-4)
    assert (score["metric"], score["unit"], score["higher_is_better"], score["n"]) == ("bits_per_byte", "", False, 5)
    outcomes = read_outcomes(score["outcomes"])
    assert outcomes is not None
    assert outcomes.values == pytest.approx([b / size for b, size in zip(bits, sizes, strict=True)], rel=1e-4)
    assert (outcomes.values * outcomes.weights).sum() / outcomes.weights.sum() == pytest.approx(score["score"])


def test_a_text_longer_than_the_model_reads_is_scored_to_its_end(base: Any, tmp_path: Path) -> None:
    model, tokenizer = base
    most = model.config.max_position_embeddings
    write_jsonl(tmp_path / "long.jsonl", [{"text": f"note {i} " * most} for i in range(3)])
    (task,) = load_tasks(["long.jsonl"], tmp_path)
    (score,) = evaluate(model, tokenizer, [task]).values()
    (example,) = task.test_examples()
    assert 0 < score["score"] < 100
    assert read_outcomes(score["outcomes"]).weights.tolist() == [len(example.completion)]


def test_the_windows_of_a_long_text_are_one_example(base: Any, tmp_path: Path) -> None:
    model, tokenizer = base
    most = model.config.max_position_embeddings
    words = ["note", "remember", "double"]
    write_jsonl(tmp_path / "long.jsonl", [{"text": f"{words[i % 3]} {i} " * most} for i in range(6)])
    (task,) = load_tasks([{"task": "long.jsonl", "metric": "loss", "test": 0.4}], tmp_path)
    kept: dict[str, list] = {}
    (score,) = evaluate(model, tokenizer, [task], keep=kept.__setitem__).values()
    outcomes = read_outcomes(score["outcomes"])
    assert score["n"] == len(outcomes.values) == len(kept["long"]) == len(task.test_examples()) == 2
    assert score["metrics"]["tokens"] == outcomes.weights.sum() > 2 * most
    assert (outcomes.values * outcomes.weights).sum() / outcomes.weights.sum() == pytest.approx(score["score"])
    said = [example.completion.split()[0] for example in task.test_examples()]
    assert [each["target"].split()[0] for each in kept["long"]] == said


def test_a_perplexity_that_no_number_can_say_is_told_as_one(base: Any, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "words.jsonl", [{"text": f"{i}odd" * 200} for i in range(3)])
    (task,) = load_tasks([{"task": "words.jsonl", "metric": "word_perplexity"}], tmp_path)
    with pytest.raises(UserError, match="task 'words': its score is too large for a number"):
        evaluate(*base, [task])


def test_labels_are_ranked_as_they_are_learned(base: Any, tmp_path: Path) -> None:
    model, tokenizer = base
    names = ["even", "note", "odd"]
    rows = [{"text": f"number {i}", "label": names[i % 3]} for i in range(40)]
    write_jsonl(tmp_path / "parity.jsonl", rows)
    (task,) = load_tasks([{"task": "parity.jsonl", "test": 0.3}], tmp_path)
    (score,) = evaluate(model, tokenizer, [task], num_fewshot=0).values()
    right = []
    for example in task.test_examples():
        each = [likelihood_of(model, tokenizer, str(example.prompt), name) for name in names]
        right.append(names[each.index(max(each))] == example.completion)
    assert score["score"] == pytest.approx(100 * sum(right) / len(right))
    assert (score["metric"], score["n"]) == ("acc", 12)
    lm = LoadedModel(model.eval(), tokenizer, 4)
    (found,) = predict_rows(lm, task, [{"text": "number 7"}])
    assert list(found["scores"]) == names
    wanted = [likelihood_of(model, tokenizer, "number 7\nLabel: ", name) for name in names]
    assert list(found["scores"].values()) == pytest.approx(wanted, rel=1e-4)
    assert evaluate(model, tokenizer, [task], num_fewshot=2)["parity"]["n"] == 12


def likelihood_of(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    from loraweave.data.border import split_ids

    context, ids = split_ids(prompt, answer, tokenizer)
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([context + ids])).logits[0, :-1].log_softmax(-1)
    return sum(float(logs[len(context) - 1 + i, token]) for i, token in enumerate(ids))


def test_written_answers_are_compared_without_outer_space(base: Any, tmp_path: Path) -> None:
    model, tokenizer = base
    rows = [{"q": f"note {i}", "a": f"remember {i}"} for i in range(12)]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    templates = {"prompt": "{{q}}", "completion": " {{a}}", "metric": "exact_match"}
    (task,) = load_tasks([{"task": "mine.jsonl", "test": 0.3, **templates}], tmp_path)
    assert evaluate(model, tokenizer, [task])["mine"]["score"] == 0  # of a model that was never trained
    lm = LoadedModel(model.eval(), tokenizer, 4)
    answers = [found["prediction"] for found in predict_rows(lm, task, rows)]
    learned = [{"q": row["q"], "a": answer.strip() or "x"} for row, answer in zip(rows, answers, strict=True)]
    write_jsonl(tmp_path / "mine.jsonl", learned)
    (task,) = load_tasks([{"task": "mine.jsonl", "test": 0.3, **templates}], tmp_path)
    said = {row["q"]: answer.strip() for row, answer in zip(rows, answers, strict=True)}
    right = [bool(said[str(example.prompt)]) for example in task.test_examples()]
    assert any(right)
    assert evaluate(model, tokenizer, [task])["mine"]["score"] == pytest.approx(100 * sum(right) / len(right))
