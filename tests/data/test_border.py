"""Prompt and answer have the tokens that evaluation has, and nothing of an answer is lost at the border."""

import copy
import unicodedata
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from tiny_tasks import CORPUS, learned, make_tokenizer, write_jsonl
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from loraweave.bases import resolve_base
from loraweave.data.border import context_ids, continued_ids, middle_ids, opened_ids, split_ids
from loraweave.data.encode import encode
from loraweave.evaluation.lm import LoadedModel
from loraweave.tasks import Example, load_tasks

MADE = ("bytes", "start", "spaces", "inside", "ends", "ends_bytes")


def llama_like() -> Any:
    """Tokens may span words, a text begins with a space, bytes stand for what has no token (Llama 2)."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    ends = [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), *ends])
    tokens = ["<pad>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=700, special_tokens=tokens, show_progress=False)
    )
    return with_start(tokenizer)


def unigram() -> Any:
    """The likeliest pieces of a whole word, so that its beginning may be divided otherwise than alone (Gemma 1)."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    letters = [*map(chr, range(32, 127)), *"\n\té€"]
    trainer = trainers.UnigramTrainer(
        vocab_size=250, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return with_start(tokenizer)


def prefixed() -> Any:
    """Byte-level, with a space before a text (RoBERTa's way of GPT-2)."""
    made = make_tokenizer("bytes")
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return made


def first() -> Any:
    """A space before the first word of a text, and not behind a special token (Llama 2, `legacy=False`)."""
    made = make_tokenizer("spaces")
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.backend_tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return made


def with_start(tokenizer: Tokenizer) -> Any:
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


TOKENIZERS = {kind: make_tokenizer(kind) for kind in MADE} | {
    "nano": AutoTokenizer.from_pretrained(resolve_base("nano")),
    "llama": llama_like(),
    "unigram": unigram(),
    "prefixed": prefixed(),
    "first": first(),
}
KINDS = list(TOKENIZERS)
SPACED = ("spaces", "ends", "llama", "unigram", "prefixed", "first")

PROMPTS = [
    "def area(",
    "many child",
    '{"kind": "',
    "print('",
    "see http",
    "Answer: ",
    "Answer:\n",
    "Sum:\t",
    "A: \n\n ",
]
PROMPTS += ["", " ", "\n", "the quick", "the quick ", "<s>the", "<s>", "the</s>", "x.items(", "5", "é", "Fran"]
COMPLETIONS = ["): return w * h", "):", "ren", 'bill"}', "')", "://a.example", "Paris", "yes", "12", " fox", "\nfox"]
COMPLETIONS += ["  two", "é fox ", "s", " ", "ce?\nAnswer: Paris", "</s", "5", "(", "\n\n", "ck brown"]
PAIRS = list(product(PROMPTS, COMPLETIONS))


class Recording(LoadedModel):
    """Keeps the ids that it is asked about, and those that it is given to continue."""

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> Any:
        self.asked = [(context, answer) for _, context, answer in requests]
        return [(0.0, False) for _ in requests]

    def _model_generate(self, context: Any, max_length: int, stop: Any, attention_mask: Any, **kwargs: Any) -> Any:
        rows = zip(context.tolist(), attention_mask.tolist(), strict=True)
        self.given += [[token for token, shown in zip(*row, strict=True) if shown] for row in rows]
        return torch.cat([context, context[:, -1:]], dim=1)


@pytest.fixture(scope="module")
def scorers() -> dict[str, Recording]:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=2048, **shape))
    return {kind: Recording(model, tokenizer, 8) for kind, tokenizer in TOKENIZERS.items()}


def text_of(ids: list[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def continues(context: list[int], answer: list[int], text: str, kind: str) -> bool:
    """Whether the ids say the text after their context; where a text or a part of one begins some put a space."""
    tokenizer = TOKENIZERS[kind]
    before, whole = text_of(context, tokenizer), text_of(context + answer, tokenizer)
    at_start = kind in SPACED and context[-1] in tokenizer.added_tokens_decoder
    return whole == before + text or (at_start and whole == f"{before} {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_generated_answer_is_trained_after_the_tokens_that_generation_gets(
    kind: str, scorers: dict[str, Recording]
) -> None:
    tokenizer, model = TOKENIZERS[kind], scorers[kind]
    for prompt, completion in PAIRS:
        row = encode(Example(prompt, completion), tokenizer, 256)
        model.given = []
        # In a batch with others: what one prompt begins with says nothing about the next.
        requests = [Instance("generate_until", {}, (text, {"until": ["\n"]}), 0) for text in ("<s>a", prompt, "b")]
        model.generate_until(requests)
        context = row["input_ids"][: -len(learned(row))]
        assert context in model.given, (prompt, completion)
        assert continues(context, learned(row)[:-1], completion, kind), (prompt, completion)
        assert learned(row)[-1] == tokenizer.eos_token_id
        assert row["input_ids"].count(tokenizer.eos_token_id) == 1 + prompt.count("</s>") + (
            context == [tokenizer.eos_token_id]
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_scored_answer_is_trained_on_the_tokens_that_are_scored(kind: str, scorers: dict[str, Recording]) -> None:
    tokenizer, model = TOKENIZERS[kind], scorers[kind]
    model.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in PAIRS])
    for (prompt, completion), (context, answer) in zip(PAIRS, model.asked, strict=True):
        row = encode(Example(prompt, completion, by_likelihood=True), tokenizer, 256)
        assert row["input_ids"] == [*context, *answer, tokenizer.eos_token_id], (prompt, completion)
        assert learned(row)[:-1] == answer
        moved = prompt[len(prompt.rstrip()) :] + completion
        assert any(continues(context, answer, text, kind) for text in (completion, moved)), (prompt, completion)


@pytest.mark.parametrize("kind", ["bytes", "start", "spaces", "inside"])
def test_the_split_is_lm_evals_where_it_loses_nothing(kind: str) -> None:
    from lm_eval.models.huggingface import HFLM

    tokenizer = TOKENIZERS[kind]
    theirs = object.__new__(HFLM)
    theirs.tokenizer, theirs.backend = tokenizer, "causal"
    theirs.add_bos_token = theirs.custom_prefix_token_id = None
    same = 0
    for prompt, completion in PAIRS:
        if not prompt.strip():
            continue
        context, answer = theirs._encode_pair(prompt, completion)
        if context + answer == theirs.tok_encode(prompt + completion):
            assert split_ids(prompt, completion, tokenizer) == (context, answer)
            same += 1
    assert same > len(PAIRS) / 2


@given(st.sampled_from(KINDS), st.text("ab (\n\t'\"):é0<", max_size=12), st.text("ab (\n\t'\"):é0<", max_size=12))
@settings(max_examples=400, deadline=None)
def test_no_text_is_lost_or_added(kind: str, prompt: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    context, answer = continued_ids(prompt, text, tokenizer)
    assert context == context_ids(prompt, tokenizer)
    assert continues(context, answer, text, kind)
    before = tokenizer.encode("a", add_special_tokens=False)
    assert text_of(before + middle_ids(text, tokenizer), tokenizer) == (" a" if kind == "prefixed" else "a") + text


@pytest.mark.parametrize("ending", ["", "eval"])
def test_a_files_rows_are_split_as_they_are_evaluated(ending: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "Answer: ", "completion": "Paris"}] * 3)
    (tmp_path / "choice.yaml").write_text(
        "task: choice\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
        'output_type: multiple_choice\ndoc_to_text: "{{prompt}}"\ndoc_to_target: "{{completion}}"\n'
        "doc_to_choice: [Paris, Rome]\nmetric_list: [{metric: acc}]\n"
    )
    spec = {"task": "rows.jsonl"} | ({"eval": "choice.yaml"} if ending else {})
    (task,) = load_tasks([spec], tmp_path)
    tokenizer = TOKENIZERS["start"]
    text = text_of(learned(encode(task.training_examples()[0], tokenizer, 64)), tokenizer)
    assert text == (" Paris</s>" if ending else "Paris</s>")


def test_the_cases_of_text_at_the_border(shared: Path) -> None:
    (task,) = load_tasks(["border.jsonl"], shared / "cases")
    for example, kind in product(task.training_examples(), KINDS):
        row = encode(example, TOKENIZERS[kind], 64)
        context = context_ids(str(example.prompt), TOKENIZERS[kind])
        assert row["input_ids"][: len(context)] == context
        assert continues(context, learned(row)[:-1], str(example.completion), kind)


def test_what_stands_in_front_of_a_text_may_change(tokenizers: dict[str, Any]) -> None:
    tokenizer = copy.deepcopy(tokenizers["start"])
    started = context_ids("number", tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    assert [tokenizer.bos_token_id, *context_ids("number", tokenizer)] == started
    tokenizer.backend_tokenizer.post_processor = tokenizers["start"].backend_tokenizer.post_processor
    assert context_ids("number", tokenizer) == started


NORMALISERS = {
    "nfkc": normalizers.NFKC(),
    "lower": normalizers.Lowercase(),
    "stripped": normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()]),
    "spaces": normalizers.Replace(Regex(" {2,}"), " "),
}


@pytest.mark.parametrize("kind", NORMALISERS)
def test_texts_that_a_tokenizer_changes_are_trained_as_they_are_asked(kind: str) -> None:
    """The ids say what the tokenizer makes of a text, each side by itself, and no prompt depends on its answer."""
    tokenizer = make_tokenizer("start")
    tokenizer.backend_tokenizer.normalizer = NORMALISERS[kind]
    pairs = [*PAIRS, ("e", "\u0301t\u00e9"), ("The Fox", "JUMPS"), ("x ", "  y"), ("\ufb01", "\u00b2"), ("a\n", "\nb")]
    for prompt, completion in pairs:
        context, answer = continued_ids(prompt, completion, tokenizer)
        assert context == context_ids(prompt, tokenizer)
        row = encode(Example(prompt, completion), tokenizer, 256)
        assert row["input_ids"][: len(context)] == context
        if kind in ("nfkc", "lower"):
            change = str.lower if kind == "lower" else partial(unicodedata.normalize, "NFKC")
            assert text_of(answer, tokenizer) == change(completion) or text_of(context + answer, tokenizer).endswith(
                change(prompt + completion)
            )
        context, answer = split_ids(prompt, completion, tokenizer)
        scored = encode(Example(prompt, completion, by_likelihood=True), tokenizer, 256)
        assert scored["input_ids"][: len(context)] == context
        assert scored["input_ids"][len(context) : len(context) + len(answer)] == answer


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_before_any_answer_has_the_same_ids_whatever_it_is(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    for prompt in ("assistant\n", "assistant\n<think>\n", "a: "):
        for opening in ("<think>\n\n</think>\n\n", "\n</think>\n\n", "final: "):
            given = opened_ids(prompt, opening, "", tokenizer)[:2]
            assert given[0] == context_ids(prompt, tokenizer)
            for text in [each for each in COMPLETIONS if each.strip()]:
                context, opened, answer = opened_ids(prompt, opening, text, tokenizer)
                assert (context, opened) == given
                assert continues(context, opened + answer, opening + text, kind)
                assert continues(context + opened, answer, text, kind)
