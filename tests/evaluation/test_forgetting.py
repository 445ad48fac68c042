"""What a model is scored on without being trained for it: bits per byte, and adapters that answer by task."""

import math

import pytest
import torch
from tiny_project import write_base
from torch.nn import functional

from loraweave.bases import load_base
from loraweave.evaluation import evaluate
from loraweave.evaluation.forgetting import evaluate_untrained
from loraweave.evaluation.outcomes import read_outcomes
from loraweave.tasks.untrained import load_untrained


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    write_base(folder)
    return load_base(folder)


@pytest.fixture
def story(tmp_path):
    (tmp_path / "story.txt").write_text("\n\n".join(f"Paragraph {n}. " + "Words follow words. " * 20 for n in range(6)))
    return load_untrained(["story.txt"], {}, tmp_path)


def bits_by_hand(model, tokenizer, passage: str) -> float:
    """Every token of the passage once, after as much of it as fits in a window that starts anew where one is full."""
    ids = tokenizer.encode(passage, add_special_tokens=False)
    reads, nats = model.config.max_position_embeddings, 0.0
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    done = 0
    while done < len(ids):
        part = ids[done : done + reads]
        before = [start] if done == 0 else ids[max(0, done + len(part) - reads - 1) : done]
        row = torch.tensor([(before + part)[:-1]])
        with torch.no_grad():
            logits = model(input_ids=row).logits[0, -len(part) :].float()
        nats += float(functional.cross_entropy(logits, torch.tensor(part), reduction="sum"))
        done += len(part)
    return nats / math.log(2)


def test_bits_per_byte_are_those_of_all_bytes(base, story):
    model, tokenizer = base
    score = evaluate_untrained(model, tokenizer, story)["story"]
    passages = [example.completion for example in story[0].test_examples()]
    sizes = [len(passage.encode()) for passage in passages]
    bits = [bits_by_hand(model, tokenizer, passage) for passage in passages]
    assert score["metric"] == "bits_per_byte"
    assert not score["higher_is_better"]
    assert score["score"] == pytest.approx(sum(bits) / sum(sizes), rel=1e-4)
    kept = read_outcomes(score["outcomes"])
    assert kept.values == pytest.approx([b / size for b, size in zip(bits, sizes, strict=True)], rel=1e-4)
    assert [*kept.weights] == sizes
    assert score["n"] == len(passages)
    assert 0 < score["stderr"] < 0.1


def test_solved_examples_mean_nothing_to_a_text(base, story):
    model, tokenizer = base
    plain = evaluate_untrained(model, tokenizer, story)["story"]["score"]
    assert evaluate_untrained(model, tokenizer, story, num_fewshot=2)["story"]["score"] == plain


def test_an_adapter_that_answers_by_task_is_asked_as_each_of_them(base, story):
    from peft import get_peft_model

    import loraweave

    model, tokenizer = base
    adapter = loraweave.MtlLoraConfig(r=2, task_names=["a", "b"], target_modules="all-linear")
    adapted = get_peft_model(model, adapter)
    torch.manual_seed(0)
    for name, tensor in adapted.named_parameters():
        if "weave_" in name:
            torch.nn.init.normal_(tensor, std=0.3)
    by_task = [evaluate(adapted, tokenizer, story, told_as=name)["story"] for name in ("a", "b")]
    assert by_task[0]["score"] != by_task[1]["score"]
    both = evaluate_untrained(adapted, tokenizer, story)["story"]
    assert both["score"] == pytest.approx((by_task[0]["score"] + by_task[1]["score"]) / 2)
    values = [read_outcomes(score["outcomes"]).values for score in (*by_task, both)]
    assert values[2] == pytest.approx((values[0] + values[1]) / 2, rel=1e-5)
    assert both["requests"] == by_task[0]["requests"]
    adapted.unload()
