"""Scored positions alone go through the head, and what comes out is what lm-eval computes from all of the logits."""

import random

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, get_peft_model
from tiny_project import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

import loraweave
from loraweave.errors import UserError
from loraweave.evaluation import evaluate, scored_tokens
from loraweave.evaluation.lm import LoadedModel
from loraweave.evaluation.scored_tokens import batches, score_rows, score_tokens

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
KV = {"num_key_value_heads": 2}
KINDS = {
    "llama": {**SIZES, **KV},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 16},
    "mistral": {**SIZES, **KV, "sliding_window": 5},
    "mixtral": {**SIZES, **KV, "num_local_experts": 4},
    # What these do behind their heads: a cap, a scale, a divisor.
    "gemma2": {**SIZES, **KV, "head_dim": 8, "sliding_window": 5, "final_logit_softcapping": 0.5},
    "cohere": {**SIZES, **KV, "logit_scale": 7.0},
    "granite": {**SIZES, **KV, "logits_scaling": 0.1},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}


def made(kind: str) -> torch.nn.Module:
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    length = {} if kind in ("gpt2", "mamba") else {"max_position_embeddings": 64}
    config = AutoConfig.for_model(kind, vocab_size=len(byte_tokenizer()), **special, **length, **KINDS[kind])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # so that the likeliest token is not the last one read, and no two are as likely
        model.get_output_embeddings().weight.add_(torch.randn(model.get_output_embeddings().weight.shape))
    return model


def heads(model: torch.nn.Module) -> list[int]:
    """Fills up with the number of positions that the head sees at each call."""
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _, args, out: seen.append(out.shape[:-1].numel()))
    return seen


def test_a_model_that_computes_no_numbers_is_told():
    """As one made for bfloat16 may in float16: any first answer would pass for the likeliest."""
    model = made("llama").half()
    with torch.no_grad():
        for parameter in model.get_decoder().layers[0].mlp.parameters():
            parameter.mul_(1e3)
        assert model(torch.tensor([[5, 6, 7]])).logits.isnan().any()
    with pytest.raises(UserError, match=r"no number \(NaN\): .* loaded in float16"):
        score_rows(model, [[5, 6, 7]], [[(1, 7)]])


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_log_softmax_of_all_logits(kind, monkeypatch):
    model = made(kind)
    ids = torch.tensor([[random.Random(i).randrange(3, 259) for i in range(k, k + 11)] for k in (0, 20, 40)])
    with torch.no_grad():
        wanted = model(ids).logits.float().log_softmax(-1).flatten(0, 1)
    draw = random.Random(0)
    places = torch.tensor([draw.randrange(33) for _ in range(25)])  # in any order, some of them twice
    tokens = torch.tensor([draw.randrange(259) for _ in range(25)])
    tokens[::3] = wanted[places[::3]].argmax(-1)
    for most in (1, 4, 100):
        monkeypatch.setattr(scored_tokens, "LOGIT_BYTES", {"cpu": most * 4 * 259})
        seen = heads(model)
        found = score_tokens(model, places, tokens, input_ids=ids, use_cache=False)
        assert found.log_probs.numpy() == pytest.approx(wanted[places, tokens].numpy(), abs=1e-4, rel=1e-6)
        assert torch.equal(found.greedy, wanted[places].argmax(-1) == tokens)
        assert (max(seen), sum(seen)) == (min(most, len(places.unique())), len(places.unique()))
    assert model(ids).logits.shape == (3, 11, 259)  # nothing is left behind
    assert "forward" not in model.get_decoder().__dict__


def test_a_model_that_hides_what_its_head_is_given_is_scored_all_the_same(monkeypatch):
    model = made("llama")
    rows, asked = [[5, 6, 7], [8, 9]], [[(1, 7), (2, 50)], [(0, 9)]]
    wanted = score_rows(model, rows, asked)
    monkeypatch.setattr(model, "get_decoder", lambda: model)
    found = score_rows(model, rows, asked)
    assert [p for row in found for p, _ in row] == pytest.approx([p for row in wanted for p, _ in row], abs=1e-5)


def requests(seed: int = 0) -> list[tuple[tuple[str, str], list[int], list[int]]]:
    """Prompts with several answers and with one, answers of one token and of more, alike but for their last token;
    some prompts are longer than what the models read. No two have the same tokens divided otherwise between prompt and
    answer: there lm-eval's own reading of one for both scores the wrong position."""
    draw = random.Random(seed)

    def some(count: int) -> list[int]:
        return [draw.randrange(3, 259) for _ in range(count)]

    found = []
    for size in (1, 3, 7, 30, 60, 63, 64, 70, 90):
        prompt, stem = some(size), some(4)
        answers = [some(1), some(1), some(4), [*stem, 11], [*stem, 12]][: draw.randrange(1, 6)]
        found += [((f"prompt {size}", f"answer {i}"), prompt, answer) for i, answer in enumerate(answers)]
    draw.shuffle(found)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_log_likelihoods_are_lm_evals_own(kind, monkeypatch):
    model, tokenizer = made(kind), byte_tokenizer()
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, max_length=64)
    wanted = theirs._loglikelihood_tokens(requests(), disable_tqdm=True)
    monkeypatch.setattr(scored_tokens, "LOGIT_BYTES", {"cpu": 5 * 4 * 259})
    for rows in (1, 3, None):
        ours = LoadedModel(model, tokenizer, rows)
        ours._max_length = 64
        seen = heads(model)
        found = ours._loglikelihood_tokens(requests())
        assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=1e-4)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
        assert max(seen) <= 5
        assert ours.truncated == sum(len(prompt) + len(answer) > 65 for _, prompt, answer in requests())


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2"])
def test_long_texts_are_scored_as_lm_eval_scores_them(kind):
    model, tokenizer = made(kind), byte_tokenizer()
    texts = ["word " * 40, "a", "another text, of about as much as fits in: " + "x" * 22]
    asked = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=64)
    ours = LoadedModel(model, tokenizer, 2)
    ours._max_length = 64
    assert ours.loglikelihood_rolling(asked) == pytest.approx(
        theirs.loglikelihood_rolling(asked, disable_tqdm=True), abs=1e-3
    )


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("head", [False, True])
def test_an_adapter_by_task_is_heard_also_on_the_head(kind, head):
    model, tokenizer = made(kind), byte_tokenizer()
    targets = ["q_proj", "down_proj", *(["lm_head"] if head else [])]
    config = loraweave.WeaveConfig(
        r=2, num_heads=2, gate="task", task_names=["a", "b"], target_modules=targets, init_weights=False
    )
    adapted = get_peft_model(model, config).eval()
    theirs = HFLM(pretrained=adapted, tokenizer=tokenizer, batch_size=3, max_length=64)
    ours = LoadedModel(adapted, tokenizer)
    ours._max_length = 64
    by_task = []
    for task in ("a", "b"):
        with loraweave.task(adapted, task):
            wanted = theirs._loglikelihood_tokens(requests(), disable_tqdm=True)
            found = ours._loglikelihood_tokens(requests())
        assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=1e-4)
        by_task.append([value for value, _ in found])
    assert by_task[0] != pytest.approx(by_task[1], abs=1e-3)


def test_a_lora_on_the_head_in_half_precision_is_summed_in_float32():
    model = get_peft_model(made("llama"), LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)).eval()
    rows, asked = [[5, 6, 7, 8]], [[(column, token) for column in range(4) for token in range(3, 60)]]
    wanted = score_rows(model, rows, asked)[0]
    found = score_rows(model.to(torch.bfloat16), rows, asked)[0]
    assert [p for p, _ in found] == pytest.approx([p for p, _ in wanted], abs=0.25)
    assert all(p != float(torch.tensor(p).bfloat16()) for p, _ in found[:20])


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_the_same_tokens_divided_otherwise_are_scored_where_they_are_divided(kind):
    model, tokenizer = made(kind), byte_tokenizer()
    ids = [9, 8, 7, 6, 5, 4]
    asked = [(("", ""), ids[:cut], ids[cut:]) for cut in range(1, 6)]
    with torch.no_grad():
        each = model(torch.tensor([ids])).logits[0].log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    found = LoadedModel(model, tokenizer)._loglikelihood_tokens(asked)
    assert [value for value, _ in found] == pytest.approx(
        [float(each[cut - 1 :].sum()) for cut in range(1, 6)], abs=1e-4
    )


def test_prompts_are_read_together_and_one_too_long_is_read_alone():
    model, tokenizer = made("llama"), byte_tokenizer()
    shapes: list[tuple[int, ...]] = []
    model.model.register_forward_pre_hook(
        lambda _, args, how: shapes.append(tuple(how["input_ids"].shape)), with_kwargs=True
    )
    asked = [((str(p), str(a)), [10 + p, 5, 6], [20 + a]) for p in range(8) for a in range(4)]
    LoadedModel(model, tokenizer, 8)._loglikelihood_tokens(asked)
    assert shapes == [(8, 3)]  # answers of one token need nothing read after their prompts
    shapes.clear()
    lm = LoadedModel(model, tokenizer, 8)
    lm._loglikelihood_tokens([*asked, (("long", "x"), [7] * 100, [8])])
    assert shapes == [(8, 3), (1, 64)]
    shapes.clear()
    longer = [(texts, prompt, [*answer, 9, 9]) for texts, prompt, answer in asked]
    LoadedModel(model, tokenizer, 16)._loglikelihood_tokens(longer)
    assert shapes == [(8, 3), (16, 2), (16, 2)]


def test_a_large_vocabulary_makes_no_smaller_batches_and_no_larger_logits(base, tasks):
    """Whatever is asked: labels, text or a held-out loss."""
    model, tokenizer = base
    seen = heads(model)
    wide: list[int] = []
    model.model.layers[0].register_forward_hook(lambda _, args, out: wide.append(args[0].shape[0]))
    scores = evaluate(model, tokenizer, tasks)
    before, positions = [*wide], sum(seen)
    assert max(before) == 32  # all answers of a task at once
    model.config.vocab_size, seen[:], wide[:] = 151_936, [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scored_tokens, "LOGIT_BYTES", {"cpu": 10 * 4 * 151_936})
        assert {name: score["score"] for name, score in evaluate(model, tokenizer, tasks).items()} == pytest.approx(
            {name: score["score"] for name, score in scores.items()}
        )
    assert wide == before
    assert (max(seen) <= 10, sum(seen)) == (True, positions)


def test_long_rows_make_smaller_batches_where_nobody_says_how_large():
    model, tokenizer = made("llama"), byte_tokenizer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loraweave.evaluation.lm.TOKENS", {"cpu": 128})
        assert LoadedModel(model, tokenizer).most_tokens == 128
        assert LoadedModel(model, tokenizer, 7).most_tokens is None
    assert list(batches([2, 30, 3, 9, 1, 64], 4, 64)) == [[5], [1, 3], [2, 0, 4]]
    assert list(batches([2, 30, 3, 9, 1, 64], 4)) == [[5, 1, 3, 2], [0, 4]]
    assert list(batches([100, 90], 4, 64)) == [[0], [1]]
    assert list(batches([], 5)) == []


@pytest.mark.parametrize("answer", [[], [7] * 65])
def test_an_answer_that_cannot_be_read_is_told(answer):
    lm = LoadedModel(made("llama"), byte_tokenizer())
    with pytest.raises(ValueError, match=rf"an answer of {len(answer)} tokens, and the model reads 1 to 64"):
        lm._loglikelihood_tokens([(("a", "b"), [5], answer)])
