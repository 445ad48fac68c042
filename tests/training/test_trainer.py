"""The trainer: a loss per task from the same tokens that are trained on, whatever the batches look like."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_rows import NAMES, random_rows
from tiny_training import as_rows
from torch.nn.functional import cross_entropy

from loraweave.bases import fingerprint
from loraweave.config import MtlLoraConfig, RLoraConfig
from loraweave.data.rows import TokenRows
from loraweave.errors import UserError
from loraweave.runs.adapting import adapted
from loraweave.runs.methods import choose_method


def losses_by_hand(model: Any, rows: TokenRows) -> dict[str, list[float]]:
    """Per task the loss of every completion token, one example at a time, from plain logits."""
    losses: dict[str, list[float]] = {name: [] for name in NAMES}
    with torch.no_grad():
        for example in range(len(rows)):
            row = {key: torch.as_tensor(value) for key, value in rows.joined([example]).items()}
            logits = model(input_ids=row["input_ids"][None]).logits[0, :-1]
            tokens = cross_entropy(logits, row["labels"][1:], reduction="none", ignore_index=-100)
            losses[NAMES[rows.tasks[example]]] += tokens[row["labels"][1:] != -100].tolist()
    return losses


@pytest.mark.parametrize(
    ("architecture", "packing"),
    [("llama", False), ("llama", True), ("qwen2", True), ("gpt2", True), ("opt", False), ("mixtral", True)],
)
def test_evaluation_gives_the_loss_of_each_task(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows, architecture: str, packing: bool
) -> None:
    model = tiny_model(architecture)
    by_hand = losses_by_hand(model, rows)
    trainer = make_trainer(model, rows, packing=packing, per_device_eval_batch_size=3, router_aux_loss_coef=0.0)
    metrics = trainer.evaluate()
    means = {name: sum(values) / len(values) for name, values in by_hand.items()}
    for name, mean in means.items():
        assert metrics[f"eval_loss/{name}"] == pytest.approx(mean, rel=1e-4)
    assert metrics["eval_loss_macro"] == pytest.approx(sum(means.values()) / 2, rel=1e-4)
    everything = [*by_hand["short"], *by_hand["long"]]
    assert metrics["eval_loss"] == pytest.approx(sum(everything) / len(everything), rel=1e-4)


@pytest.mark.parametrize("architecture", ["bert", "modernbert-decoder", "recurrent_gemma"])
def test_the_loss_is_of_the_bases_own_head(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows, architecture: str
) -> None:
    """Heads that are more than a product with the output embeddings: another layer before it, another soft cap."""
    model = tiny_model(architecture)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)
    by_hand = losses_by_hand(model, rows)
    trainer = make_trainer(model, rows)
    metrics = trainer.evaluate()
    for name, values in by_hand.items():
        assert metrics[f"eval_loss/{name}"] == pytest.approx(sum(values) / len(values), rel=1e-4)
    trainer.train()


def test_tokens_trained_in_tied_embeddings_are_scored_as_trained(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows
) -> None:
    base = tiny_model()
    base.config.tie_word_embeddings = True
    base.tie_weights()
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[*range(10, 50)]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.add_(0.5)
    by_hand = losses_by_hand(model, rows)
    metrics = make_trainer(model, rows).evaluate()
    for name, values in by_hand.items():
        assert metrics[f"eval_loss/{name}"] == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_trying_the_head_leaves_the_first_step_as_it_was(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows
) -> None:
    after = []
    for fused in (None, True):
        torch.manual_seed(0)
        model = get_peft_model(tiny_model(), RLoraConfig(r=2, lora_dropout=0.5))
        trainer = make_trainer(model, rows, max_steps=1, bf16=True)
        trainer.fused = fused
        trainer.train()
        after.append(dict(model.state_dict()))
    assert trainer.fused
    for name, value in after[0].items():
        assert torch.equal(value, after[1][name])


def test_what_is_trained_of_a_base_in_bfloat16_moves_by_small_steps(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows
) -> None:
    base = tiny_model("qwen2", torch.bfloat16)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            parameter += name.endswith("bias")  # as large as those of real models, which have steps of 1/128
    before = {name: value.clone() for name, value in base.state_dict().items()}
    method = choose_method({"name": "lora", "bias": "all", "modules_to_save": ["norm"]})
    with adapted(base, method, NAMES, 0, True) as model:
        trainer = make_trainer(model, rows, max_steps=2, bf16=True, learning_rate=1e-4)
        own = {n: p for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n}
        start = {name: parameter.detach().clone() for name, parameter in own.items()}
        trainer.train()
        trainer.release()
        moved = [(parameter != start[name]).float().mean() for name, parameter in own.items()]
        assert len(moved) == 6 + 5
        assert min(moved) > 0.9
    for name, value in base.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, before[name])


def one_step(
    make_trainer: Callable, model: Any, rows: TokenRows, **arguments: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters after one step, and what was logged for it. SGD, so that a wrong scale of the loss shows."""
    trainer = make_trainer(model, rows, max_steps=1, optim="sgd", max_grad_norm=0, **arguments)
    trainer.train()
    trainer.release()
    return dict(model.state_dict()), trainer.state.log_history[0]


def test_accumulating_and_packing_change_nothing(tiny_model: Callable, make_trainer: Callable, rows: TokenRows) -> None:
    start = tiny_model()
    by_hand = losses_by_hand(start, rows)
    whole, logged = one_step(make_trainer, tiny_model(), rows, per_device_train_batch_size=12)
    parts, logged_parts = one_step(
        make_trainer, tiny_model(), rows, per_device_train_batch_size=3, gradient_accumulation_steps=4
    )
    packed, logged_packed = one_step(make_trainer, tiny_model(), rows, packing=True, per_device_train_batch_size=12)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(packed[name], whole[name], atol=1e-6, rtol=1e-4)
    assert any((whole[name] != value).any() for name, value in start.state_dict().items())
    for name in NAMES:
        mean = sum(by_hand[name]) / len(by_hand[name])
        for log in (logged, logged_parts, logged_packed):
            assert log[f"loss/{name}"] == pytest.approx(mean, rel=1e-4)
    assert logged["loss"] == pytest.approx(logged_parts["loss"], rel=1e-4)
    assert logged["num_tokens"] == rows.lengths.sum()


@pytest.mark.parametrize("config", [LoraConfig(r=2, target_modules="all-linear"), RLoraConfig(r=2, lora_dropout=0.0)])
def test_gradient_checkpointing_changes_nothing(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows, config: Any
) -> None:
    after = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = get_peft_model(tiny_model(), config)
        after.append(one_step(make_trainer, model, rows, gradient_checkpointing=checkpointing)[0])
    for name, value in after[0].items():
        torch.testing.assert_close(after[1][name], value, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_method_that_needs_tasks_gets_them_token_by_token(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows, checkpointing: bool
) -> None:
    model = get_peft_model(tiny_model(), MtlLoraConfig(r=2, task_names=NAMES))
    trainer = make_trainer(model, rows, packing=True, max_steps=2, gradient_checkpointing=checkpointing)
    assert trainer.takes_tasks
    trainer.train()
    transforms = [p for n, p in model.named_parameters() if "task_transform" in n]
    moved = torch.stack([(p - torch.eye(2)).abs().amax(dim=(1, 2)) for p in transforms])
    assert (moved.amax(0) > 0).all()  # both tasks' transforms have learned


def test_only_one_task_in_the_data_trains_only_its_parameters(tiny_model: Callable, make_trainer: Callable) -> None:
    listed, tasks = random_rows()
    rows = as_rows([row for row, task in zip(listed, tasks, strict=True) if task == 1], [1] * 6)
    model = get_peft_model(tiny_model(), MtlLoraConfig(r=2, task_names=NAMES))
    make_trainer(model, rows, packing=True, max_steps=2).train()
    for name, parameter in model.named_parameters():
        if "task_transform" in name:
            assert torch.equal(parameter[0], torch.eye(2))


def test_a_plain_lora_is_not_told_tasks(tiny_model: Callable, make_trainer: Callable, rows: TokenRows) -> None:
    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules="all-linear"))
    trainer = make_trainer(model, rows, max_steps=1)
    assert not trainer.takes_tasks
    trainer.train()


@pytest.mark.parametrize(("packing", "named"), [(False, "long"), (True, "short, long")])
def test_a_loss_that_is_not_a_number_stops_with_step_and_task(
    tiny_model: Callable, make_trainer: Callable, packing: bool, named: str
) -> None:
    rows = as_rows(*random_rows())
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[30:50] = float("nan")  # tokens of the task `long` alone
    trainer = make_trainer(model, rows, packing=packing, max_steps=3, per_device_train_batch_size=12)
    with pytest.raises(UserError, match=rf"NaN or infinite at step 1, on {named};"):  # 0 · NaN reaches row neighbours
        trainer.train()


def test_the_base_is_given_back_untouched(tiny_model: Callable, make_trainer: Callable, rows: TokenRows) -> None:
    base = tiny_model()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    mark = fingerprint(base)
    for spec in ("lora", "rlora", "multilora", {"name": "hydralora", "r": 2}):
        with adapted(base, choose_method(spec), NAMES, 0, keep_base=True) as model:
            trainer = make_trainer(model, rows, max_steps=1, gradient_checkpointing=True)
            trainer.train()
            trainer.release()
        assert fingerprint(base) == mark
        assert base.state_dict().keys() == before.keys()
        assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in base.parameters())
        assert "forward" not in base.__dict__
        assert not hasattr(base, "peft_config")
        assert not base.is_gradient_checkpointing
        assert not base.training
    with adapted(base, choose_method("full"), NAMES, 0, keep_base=True) as model:
        assert model is not base


def test_experts_are_evened_out_over_tokens_and_not_over_padding(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows
) -> None:
    model = tiny_model("mixtral")
    before = (model.config.output_router_logits, model.config.router_aux_loss_coef)
    trainer = make_trainer(model, rows, router_aux_loss_coef=0.5)
    assert (model.config.output_router_logits, model.config.router_aux_loss_coef) == before  # as it will be saved
    batch = trainer.data_collator([rows.joined([0]), rows.joined([1])])
    assert batch["padding"].any()
    seen = trainer.scored_outputs(model, batch)
    trainer.release()
    told = {"attention_mask": (~batch["padding"]).long(), "output_router_logits": True}
    expected = model(input_ids=batch["input_ids"], **told).aux_loss
    torch.testing.assert_close(seen.aux_loss, expected)


def test_noise_on_embeddings_goes_with_a_training_that_failed(
    tiny_model: Callable, make_trainer: Callable, rows: TokenRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is trained on the base afterwards would get it too."""
    model = tiny_model()
    trainer = make_trainer(model, rows, neftune_noise_alpha=5.0)
    monkeypatch.setattr(trainer, "compute_loss", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    trainer.release()
    assert not model.get_input_embeddings()._forward_hooks
