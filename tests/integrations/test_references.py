"""Trainers that compare with a reference take the adapter as it was trained before, not the base; side by side with
PEFT's LoRA, which TRL knows. And the dropout of adapters is switched off where TRL switches dropout off."""

import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from few import few
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_project import byte_llama, byte_tokenizer
from torch import nn
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RLOOConfig,
    RLOOTrainer,
)
from trl.trainer.utils import disable_dropout_in_model

import loraweave
from loraweave.config import PRESETS
from loraweave.tuner import WeaveLinear

NAMES = ["add", "bend", "cut"]
TOKENIZER = byte_tokenizer()
METHODS = [*PRESETS, "lora"]
WITHOUT_TASKS = [name for name in PRESETS if not PRESETS[name](task_names=NAMES).needs_tasks] + ["lora"]


def fresh(name: str, dropout: float = 0.1) -> PeftModel:
    shared: dict[str, Any] = {"r": 2, "lora_dropout": dropout, "task_type": "CAUSAL_LM"}
    if name == "lora":
        return get_peft_model(byte_llama(), LoraConfig(target_modules="all-linear", **shared))
    return get_peft_model(byte_llama(), PRESETS[name](task_names=NAMES, **shared))


def move(model: nn.Module) -> None:
    """Stands for training: every trained tensor gets other values, far from the start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def trained(name: str, folder: Path) -> PeftModel:
    """An adapter that was trained, saved, and loaded to be trained on."""
    model = fresh(name)
    move(model)
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(byte_llama(), folder, is_trainable=True)


def arguments(kind: type, folder: Path, **more: Any) -> Any:
    return kind(
        output_dir=str(folder / "run"),
        max_steps=1,
        per_device_train_batch_size=4,
        learning_rate=0.0,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        disable_dropout=True,
        **more,
    )


def first_logged(trainer: Any) -> dict[str, float]:
    trainer.train()
    return trainer.state.log_history[0]


ROWS = [{"prompt": "ABC"[i % 3] + "xyz"[: 1 + i % 3], "task": NAMES[i % 3]} for i in range(8)]
PAIRS = [{**row, "chosen": "uv", "rejected": "wvw"} for row in ROWS]


def dpo(trainer_class: type, model: PeftModel, folder: Path) -> Any:
    return trainer_class(
        model=model,
        args=arguments(DPOConfig, folder),
        processing_class=TOKENIZER,
        train_dataset=datasets.Dataset.from_list(PAIRS),
    )


def reward(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(sum(map(ord, completion)) % 17) for completion in completions]


def generating(trainer_class: type, kind: type, model: PeftModel, folder: Path) -> Any:
    return trainer_class(
        model=model,
        args=arguments(kind, folder, num_generations=2, max_completion_length=6, beta=0.1),
        processing_class=TOKENIZER,
        reward_funcs=reward,
        train_dataset=datasets.Dataset.from_list(ROWS),
    )


@pytest.mark.parametrize("name", few(METHODS))
def test_dpo_starts_at_the_adapter(tmp_path: Path, name: str) -> None:
    log = first_logged(dpo(loraweave.with_tasks(DPOTrainer), trained(name, tmp_path), tmp_path))
    assert log["loss"] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("name", few(METHODS))
def test_grpo_starts_at_the_adapter(tmp_path: Path, name: str) -> None:
    log = first_logged(generating(loraweave.with_tasks(GRPOTrainer), GRPOConfig, trained(name, tmp_path), tmp_path))
    assert log["kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", few(WITHOUT_TASKS))
def test_plain_trainers_start_at_the_adapter(tmp_path: Path, name: str) -> None:
    log = first_logged(dpo(DPOTrainer, trained(name, tmp_path), tmp_path))
    assert log["loss"] == pytest.approx(math.log(2), abs=1e-5)
    log = first_logged(generating(GRPOTrainer, GRPOConfig, trained(name, tmp_path), tmp_path))
    assert log["kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["rlora", "lora"])
def test_other_plain_trainers_start_at_the_adapter(tmp_path: Path, name: str) -> None:
    log = first_logged(generating(RLOOTrainer, RLOOConfig, trained(name, tmp_path), tmp_path))
    assert log["kl"] == pytest.approx(0, abs=1e-6)
    rows = [{"prompt": row["prompt"], "completion": "uv", "label": i % 2 == 0} for i, row in enumerate(ROWS)]
    trainer = KTOTrainer(
        model=trained(name, tmp_path),
        args=arguments(KTOConfig, tmp_path),
        processing_class=TOKENIZER,
        train_dataset=datasets.Dataset.from_list(rows),
    )
    assert first_logged(trainer)["loss"] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("name", few(METHODS))
def test_the_reference_stays_while_the_adapter_is_trained(tmp_path: Path, name: str) -> None:
    model = trained(name, tmp_path)
    trainer = dpo(loraweave.with_tasks(DPOTrainer), model, tmp_path)
    trainer.args.learning_rate = 1e-2
    trainer.args.warmup_steps = 0
    of_reference = {n: p for n, p in model.named_parameters() if n.endswith(".ref") or ".ref." in n}
    assert of_reference
    assert not any(parameter.requires_grad for parameter in of_reference.values())
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer.train()
    after = dict(model.named_parameters())
    assert all(torch.equal(before[n], after[n]) for n in of_reference)
    assert any(not torch.equal(before[n], after[n]) for n in before if "default" in n)


def test_an_adapter_of_another_name_or_configuration_starts_anew(tmp_path: Path) -> None:
    model = fresh("hydralora")
    move(model)
    model.add_adapter("other", model.peft_config["default"])
    layer = next(module for module in model.modules() if isinstance(module, WeaveLinear))
    assert layer.weave_B["default"].abs().max() > 0
    assert layer.weave_B["other"].abs().max() == 0
    model.add_adapter("ref", PRESETS["hydralora"](r=2, task_type="CAUSAL_LM"))
    assert layer.weave_B["ref"].abs().max() == 0


@pytest.mark.parametrize("name", few(METHODS))
def test_trl_switches_the_dropout_of_adapters_off(name: str) -> None:
    model = fresh(name, dropout=0.5)
    move(model)
    model.train()
    ids = torch.arange(3, 15).view(2, 6)
    more: dict[str, Any] = {} if name == "lora" else {"tasks": ["add", "cut"]}

    def logits() -> torch.Tensor:
        return model(input_ids=ids, **more).logits

    assert not torch.equal(logits(), logits())
    disable_dropout_in_model(model)
    assert torch.equal(logits(), logits())
    in_training = logits()
    assert torch.allclose(in_training, model.eval()(input_ids=ids, **more).logits, atol=1e-6)


def test_an_adapter_added_in_evaluation_has_no_dropout_there() -> None:
    model = fresh("hydralora").eval()
    model.add_adapter("second", PRESETS["hydralora"](r=2, lora_dropout=0.5, init_weights=False, task_type="CAUSAL_LM"))
    model.set_adapter("second")
    ids = torch.arange(3, 15).view(2, 6)
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    model.train()
    assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    model.delete_adapter("second")
    layer = next(module for module in model.modules() if isinstance(module, WeaveLinear))
    assert set(layer.dropouts) == {"default"}
