"""The token ids of training are the ids that lm-eval scores, whatever the tokenizer and the template."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_tasks import learned

from loraweave.data.border import split_ids
from loraweave.data.encode import IGNORED, TooLongError, encode, encode_all
from loraweave.errors import UserError
from loraweave.tasks import Example, load_tasks

PLAIN = ["bytes", "start", "spaces"]


def asked_about(scorer: Any, task: Any, chat: bool = False, multiturn: bool = False) -> list[tuple[Any, Any]]:
    """Let lm-eval evaluate a task's own requests and return (context ids, answer ids) of each."""
    task.build_all_requests(
        apply_chat_template=chat,
        fewshot_as_multiturn=multiturn,
        chat_template=scorer.apply_chat_template if chat else None,
    )
    scorer.loglikelihood(task.instances, disable_tqdm=True)
    return scorer.asked


@pytest.mark.parametrize("kind", PLAIN)
def test_rows_hold_the_ids_that_lm_eval_scores(
    kind: str, tokenizers: dict[str, Any], scorers: dict[str, Any], write_task: Callable[..., Path]
) -> None:
    path = write_task()
    path.write_text(path.read_text() + 'description: "Sort the news.\\n\\n"\n')
    (task,) = load_tasks([path.name], path.parent)
    asked = asked_about(scorers[kind], task.lm_eval)
    choices = task.lm_eval.doc_to_choice(task.lm_eval.eval_docs[0])
    tokenizer = tokenizers[kind]
    for i, (doc, example) in enumerate(zip(task.lm_eval.eval_docs, task.test_examples(), strict=True)):
        context, answer = asked[i * len(choices) + choices.index(doc["label"])]
        row = encode(example, tokenizer, 256)
        assert row["input_ids"] == [*context, *answer, tokenizer.eos_token_id]
        assert learned(row) == [*answer, tokenizer.eos_token_id]


@pytest.mark.parametrize("multiturn", [False, True])
@pytest.mark.parametrize("extra", ["", "description: You are brief.\n", 'gen_prefix: "It is"\n'])
def test_chat_rows_hold_the_ids_that_lm_eval_scores(
    extra: str, multiturn: bool, tokenizers: dict[str, Any], scorers: dict[str, Any], write_task: Callable[..., Path]
) -> None:
    path = write_task()
    path.write_text(path.read_text() + extra)
    (task,) = load_tasks([path.name], path.parent, chat_template=True)
    asked = asked_about(scorers["chat"], task.lm_eval, chat=True, multiturn=multiturn)
    choices = task.lm_eval.doc_to_choice(task.lm_eval.eval_docs[0])
    tokenizer = tokenizers["chat"]
    for i, (doc, example) in enumerate(zip(task.lm_eval.eval_docs, task.test_examples(), strict=True)):
        context, answer = asked[i * len(choices) + choices.index(doc["label"])]
        row = encode(example, tokenizer, 256)
        assert row["input_ids"] == [*context, *answer, tokenizer.eos_token_id]  # <|im_end|> ends turn and sequence
        assert learned(row) == [*answer, tokenizer.eos_token_id]
    assert tokenizer.decode(row["input_ids"]).count("<|im_start|>") == (3 if "description" in extra else 2)


@pytest.mark.parametrize("kind", PLAIN)
def test_generated_answers_follow_the_prompt_that_lm_eval_continues(
    kind: str, tokenizers: dict[str, Any], scorers: dict[str, Any], write_task: Callable[..., Path]
) -> None:
    yaml = """
task: shout
dataset_path: json
dataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}
training_split: train
test_split: test
output_type: generate_until
doc_to_text: "{{text}}\\nAgain:"
doc_to_target: text
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
    path = write_task(yaml)
    (task,) = load_tasks([path.name], path.parent)
    task.lm_eval.build_all_requests()
    for request, example in zip(task.lm_eval.instances, task.test_examples(), strict=True):
        context = scorers[kind].tok_batch_encode([request.args[0]])[0][0].tolist()
        row = encode(example, tokenizers[kind], 256)
        assert row["input_ids"][: len(context)] == context
        assert tokenizers[kind].decode(learned(row)[:-1]).strip() == request.doc["text"]


@pytest.mark.parametrize("kind", PLAIN)
def test_split_is_lm_evals_on_awkward_texts(kind: str, tokenizers: dict[str, Any], scorers: dict[str, Any]) -> None:
    from lm_eval.api.instance import Instance

    draw = random.Random(0)
    pieces = ["the", " quick", "  ", "\n", "é", "?", " Paris", "0", "\t", "<s>"]
    pairs = [("", " Paris"), ("", "<s> Paris"), ("<s>the", " fox"), ("the ", "fox"), ("the \n\n", " fox")]
    for _ in range(60):
        prompt = draw.choice(["the", "<s>", "a"]) + "".join(draw.choices(pieces, k=draw.randint(0, 6)))
        pairs.append((prompt, draw.choice([" fox", "fox", "\nfox", "é fox "])))
    scorers[kind].loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True)
    for pair, (context, answer) in zip(pairs, scorers[kind].asked, strict=True):
        assert split_ids(*pair, tokenizers[kind]) == (context, answer), pair


def test_a_long_prompt_loses_its_beginning(tokenizers: dict[str, Any]) -> None:
    example = Example("again " * 50 + "\nAnswer:", " Paris")
    whole = encode(example, tokenizers["start"], 512)
    cut = encode(example, tokenizers["start"], 20)
    assert cut["input_ids"] == whole["input_ids"][-20:]
    assert learned(cut) == learned(whole)
    assert len(cut["labels"]) == 20


def test_an_answer_that_does_not_fit_is_left_out_and_counted(tokenizers: dict[str, Any]) -> None:
    short, long = Example("the", " fox"), Example("the", " fox" * 100)
    with pytest.raises(TooLongError, match="does not fit into a sequence length of 30"):
        encode(long, tokenizers["start"], 30)
    encoded = encode_all([short, long, Example("again " * 50, " fox"), short], tokenizers["start"], 30)
    assert (encoded.kept, encoded.cut, encoded.dropped) == ([0, 2, 3], 1, 1)
    assert encoded.lengths == [len(row["input_ids"]) for row in encoded.rows]
    with pytest.raises(UserError, match="every answer is longer than the sequence length of 30"):
        encode_all([long], tokenizers["start"], 30)


def test_a_tokenizer_without_an_end_is_refused(tokenizers: dict[str, Any]) -> None:
    import copy

    tokenizer = copy.deepcopy(tokenizers["start"])
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        encode(Example("the", " fox"), tokenizer, 64)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_text_that_goes_on_has_no_end_and_a_long_one_is_several_rows(kind: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[kind]
    text = "the quick brown fox jumps over the lazy dog. " * 20
    whole, piece = (encode(Example("", text, ends=ends), tokenizer, 10_000) for ends in (True, False))
    assert whole["input_ids"] == [*piece["input_ids"], tokenizer.eos_token_id]
    assert tokenizer.decode(learned(piece)).strip() == text.strip()
    encoded = encode_all([Example("", text), Example("", text, ends=False)], tokenizer, 30)
    assert (encoded.cut, encoded.dropped) == (0, 0)
    assert max(encoded.lengths) == 30
    for index, row in enumerate((whole, piece)):
        parts = [part for part, of in zip(encoded.rows, encoded.kept, strict=True) if of == index]
        start = whole["input_ids"][0] if kind != "bytes" else tokenizer.eos_token_id
        assert all(part["input_ids"][0] == start and part["labels"][0] == IGNORED for part in parts)
        assert [token for part in parts for token in learned(part)] == learned(row)
    with pytest.raises(TooLongError):
        encode(Example("", text), tokenizer, 30)
