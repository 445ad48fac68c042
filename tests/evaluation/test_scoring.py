"""Evaluation on real lm-eval tasks: the numbers are lm-eval's, the model stays as it was, adapters are heard."""

import json
import logging
import multiprocessing

import pytest
import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, get_peft_model

import loraweave
from loraweave.data.encode import encode
from loraweave.errors import UserError
from loraweave.evaluation import evaluate, macro_average
from loraweave.evaluation.outcomes import read_outcomes, shares
from loraweave.evaluation.scores import about_cut
from loraweave.tasks import load_tasks


def test_scores_are_lm_evals_own(base, tasks):
    model, tokenizer = base
    scores = evaluate(model, tokenizer, tasks[:2], batch_size=4)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    for task in tasks[:2]:
        theirs = evaluator.evaluate(lm=lm, task_dict={"tasks": {task.name: task.lm_eval}}, bootstrap_iters=10)
        theirs = theirs["results"][task.name]
        mine = scores[task.name]
        key = f"{mine['metric']},{mine['filter']}"
        assert mine["score"] == pytest.approx(100 * theirs[key])
        assert mine["stderr"] == pytest.approx(100 * theirs[f"{mine['metric']}_stderr,{mine['filter']}"])


def test_the_bootstrap_of_a_metric_starts_no_process_and_prints_nothing(base, tmp_path, monkeypatch, capfd):
    rows = [{"prompt": f"Note {n}:", "completion": f" remember {n % 3} of {n}"} for n in range(30)]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (task,) = load_tasks([{"task": "notes.jsonl", "test": 0.4, "metric": "chrf"}], tmp_path)
    monkeypatch.setattr(multiprocessing, "Pool", lambda *_: pytest.fail("processes"))
    capfd.readouterr()
    assert evaluate(*base, [task])["notes"]["stderr"] is not None
    assert capfd.readouterr() == ("", "")


def test_headline_is_the_first_metric_in_percent_with_n_and_version(base, tasks):
    scores = evaluate(*base, tasks)
    assert list(scores) == ["parity", "double", "notes"]
    parity, double, notes = scores.values()
    assert (parity["metric"], parity["unit"], parity["n"], parity["version"]) == ("acc", "%", 16, "1.0")
    assert (double["metric"], double["filter"], double["n"]) == ("exact_match", "clean", 8)
    assert (notes["metric"], notes["unit"], notes["higher_is_better"]) == ("loss", "nats", False)
    assert 0 <= parity["score"] <= 100
    assert macro_average(scores) == pytest.approx((parity["score"] + double["score"]) / 2)
    assert json.loads(json.dumps(scores)) == scores


def test_loss_is_the_mean_over_completion_tokens(base, tasks):
    model, tokenizer = base
    notes = tasks[2]
    losses, counts = [], []
    for example in notes.test_examples():
        row = encode(example, tokenizer, 64)
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=labels).loss.item())
        counts.append(sum(label != -100 for label in row["labels"]))
    expected = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    score = evaluate(model, tokenizer, [notes], batch_size=3)["notes"]
    assert score["score"] == pytest.approx(expected, rel=1e-5)
    assert score["n"] == len(losses) == 10
    assert 0 < score["stderr"] < 0.1


def test_the_outcome_of_every_example_is_kept_and_the_score_is_their_mean(base, tasks):
    model, tokenizer = base
    scores = evaluate(model, tokenizer, tasks, batch_size=3)
    for score in scores.values():
        kept = read_outcomes(score["outcomes"])
        assert len(kept.values) == score["n"]
        assert (kept.values * kept.weights).sum() / kept.weights.sum() == pytest.approx(score["score"], rel=1e-5)
    kept = read_outcomes(scores["parity"]["outcomes"])
    assert kept.binary
    one_by_one = [evaluate(model, tokenizer, tasks[:1], limit=count)["parity"] for count in (1, 2)]
    assert one_by_one[0]["score"] == kept.values[0]  # in the task's own order
    assert 2 * one_by_one[1]["score"] == pytest.approx(kept.values[:2].sum())
    notes = read_outcomes(scores["notes"]["outcomes"])
    first = evaluate(model, tokenizer, tasks[2:], limit=1)["notes"]
    assert first["score"] == pytest.approx(notes.values[0], rel=1e-5)
    assert first["metrics"]["tokens"] == notes.weights[0]


def test_a_score_that_is_no_mean_over_examples_has_no_outcomes():
    assert shares([(1, 0), (0, 0)], 50.0, 100.0) is None
    assert shares([1.0, 0.0], 63.0, 100.0) is None
    assert read_outcomes(shares([0.5, 1.0], 75.0, 100.0)).values.tolist() == [50.0, 100.0]
    assert shares([True, False], 50.0, 100.0) == {"kind": "right or wrong", "values": "10", "weights": ""}


def test_limit_progress_and_fingerprint(base, tasks):
    seen = []
    scores = evaluate(*base, tasks[:2], limit=5, progress=lambda *told: seen.append(told))
    assert [score["n"] for score in scores.values()] == [5, 5]
    assert seen[-1] == ("double", 5, 5)
    assert ("parity", 10, 10) in seen  # one request per choice
    again = evaluate(*base, tasks[:2], limit=5, batch_size=2)
    assert [s["requests"] for s in again.values()] == [s["requests"] for s in scores.values()]
    assert evaluate(*base, tasks[:1], limit=6)["parity"]["requests"] != scores["parity"]["requests"]


def test_a_file_too_small_to_hold_rows_out_cannot_be_scored(base, tmp_path):
    (tmp_path / "two.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    with pytest.raises(UserError, match=r"task 'two': .*two.jsonl has too few rows .*name a file as 'test'"):
        evaluate(*base, load_tasks(["two.jsonl"], tmp_path))


def test_limit_below_one_is_an_error(base, tasks):
    with pytest.raises(UserError, match="limit must be at least 1"):
        evaluate(*base, tasks, limit=0)


@pytest.mark.parametrize("training", [True, False])
def test_mode_random_state_and_weights_are_left_as_found(base, tasks, training):
    model, tokenizer = base
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    evaluate(model, tokenizer, tasks, limit=3)
    assert model.training is training
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_adapter_changes_the_score_and_dropout_is_off(base, tasks):
    model, tokenizer = base
    before = evaluate(model, tokenizer, [tasks[2]])["notes"]["score"]
    adapted = get_peft_model(
        model, LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False)
    )
    adapted.train()
    scores = [evaluate(adapted, tokenizer, [tasks[2]])["notes"]["score"] for _ in range(2)]
    assert scores[0] == scores[1] != before
    with adapted.disable_adapter():
        assert evaluate(adapted, tokenizer, [tasks[2]])["notes"]["score"] == pytest.approx(before)


def test_an_adapter_that_needs_the_task_is_told(base, tasks):
    model, tokenizer = base
    config = loraweave.WeaveConfig(
        r=2, num_heads=2, gate="task", task_names=["parity", "notes"], target_modules="all-linear", init_weights=False
    )
    adapted = get_peft_model(model, config)
    score = evaluate(adapted, tokenizer, [tasks[2]], limit=1)["notes"]["score"]
    row = encode(tasks[2].test_examples()[0], tokenizer, 64)
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    with torch.no_grad():
        named, other = (adapted(input_ids=ids, labels=labels, tasks=name).loss.item() for name in ("notes", "parity"))
    assert score == pytest.approx(named, rel=1e-5) != other
    assert evaluate(adapted, tokenizer, [tasks[0]], limit=2)["parity"]["n"] == 2
    with pytest.raises(UserError, match="unknown task 'double'"):
        evaluate(adapted, tokenizer, [tasks[1]], limit=2)


def test_no_bars_and_no_log_lines(base, tasks, capfd, caplog):
    with caplog.at_level(logging.INFO):
        evaluate(*base, tasks, limit=2)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("lm_eval")]


def test_cut_prompts_are_counted(base, tasks):
    model, tokenizer = base
    model.config.max_position_embeddings = 9  # "Double hx:" has 10 tokens, and 6 are to be written
    score = evaluate(model, tokenizer, tasks[1:2])["double"]
    assert score["truncated"] == score["n"] == 8
    model.config.max_position_embeddings = 18  # a note has 7 tokens, what to remember 12
    assert evaluate(model, tokenizer, tasks[2:])["notes"]["truncated"] == 10


def test_answers_that_the_model_cannot_read_are_left_out_and_said(base, tmp_path):
    model, tokenizer = base
    rows = [{"prompt": f"{n}:", "completion": " a" * (n + 1)} for n in range(10)]
    for name, some in (("long", [{"prompt": "x:", "completion": " b"}]), ("test", rows)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    (task,) = load_tasks([{"task": "long.jsonl", "test": "test.jsonl"}], tmp_path)
    whole = evaluate(model, tokenizer, [task])
    assert "left_out" not in whole["long"]
    assert about_cut(whole) == []
    model.config.max_position_embeddings = 18  # an answer has two tokens for each "a", and its end
    found = evaluate(model, tokenizer, [task])
    assert found["long"]["left_out"] == 10 - found["long"]["n"] == 2
    assert any(
        "2 examples whose answers are longer than the model reads, left out" in line for line in about_cut(found)
    )


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
def test_prompts_are_counted_as_cut_whatever_the_task_calls_the_length_of_an_answer(base, tasks, name):
    model, tokenizer = base
    model.config.max_position_embeddings = 18
    (task,) = tasks[1:2]
    for tokens, cut in ((2, 0), (16, 8)):  # beside a prompt of 10
        task.lm_eval.set_config(key="generation_kwargs", value={"until": [], "do_sample": False, name: tokens})
        assert evaluate(model, tokenizer, [task])["double"]["truncated"] == cut
