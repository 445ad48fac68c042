"""Training arguments as a run gets them."""

import warnings
from pathlib import Path

import pytest
import torch
from transformers import trainer_optimizer
from trl import SFTConfig

from loraweave.bases import empty_base
from loraweave.errors import UserError
from loraweave.runs import settings
from loraweave.runs.config import RunConfig
from loraweave.runs.resolve import resolve
from loraweave.runs.settings import build_arguments, check_best_metric


def test_a_process_takes_one_device_whatever_it_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = SFTConfig.__post_init__

    def on_a_host_with_two_gpus(self: SFTConfig) -> None:
        prepare(self)
        self._n_gpu = 2

    monkeypatch.setattr(SFTConfig, "__post_init__", on_a_host_with_two_gpus)
    args = build_arguments({"per_device_train_batch_size": 4}, 0, tmp_path)
    assert args.n_gpu == 1
    assert args.train_batch_size == 4


def test_an_accelerator_that_is_not_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    with pytest.warns(UserWarning, match="this runs on the CPU.*not this machine's mps"):
        build_arguments({}, 0, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        build_arguments({"use_cpu": True}, 0, tmp_path)


@pytest.mark.parametrize(
    "given",
    [{"eos_token": "<|im_end|>"}, {"pad_token": "<pad>"}, {"pad_to_multiple_of": 8}, {"length_column_name": "n"}],
)
def test_what_data_that_is_encoded_already_would_not_follow_cannot_be_set(tmp_path: Path, given: dict) -> None:
    """TRL gives the tokenizer another end after the rows were made with its own, and would save it with the adapter."""
    with pytest.raises(UserError, match=f"train.{next(iter(given))} cannot be set: "):
        build_arguments(given, 0, tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_kwargs: the schedule cosine_with_min_lr .* min_lr"),
        ({"lr_scheduler_kwargs": {"cycles": 2}}, r".*the schedule cosine does not go with {'cycles': 2}: .*'cycles'"),
        ({"optim": "galore_adamw"}, "optim: You need to install `galore_torch`"),
        ({"optim": "grokadamw"}, "optim: Please install grokadamw"),
        ({"use_liger_kernel": True}, "use_liger_kernel needs the package liger-kernel"),
    ],
)
def test_what_transformers_looks_at_when_training_begins_is_told_before(
    tmp_path: Path, given: dict, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = [(settings, "is_liger_kernel_available")]
    absent += [(trainer_optimizer, f"is_{name}_available") for name in ("galore_torch", "grokadamw")]
    for module, name in absent:
        monkeypatch.setattr(module, name, lambda: False)
    with pytest.raises(UserError, match=rf"train\.{words}"):
        build_arguments(given, 0, tmp_path)


@pytest.mark.parametrize("given", [{"lr_scheduler_type": "polynomial"}, {"optim": "sgd"}, {"report_to": None}])
def test_what_goes_together_is_taken(tmp_path: Path, given: dict) -> None:
    assert build_arguments({"learning_rate": 0.0, "metric_for_best_model": None, **given}, 0, tmp_path)


@pytest.mark.parametrize("given", [{}, {"greater_is_better": None}, {"metric_for_best_model": "eval_loss/mine"}])
def test_of_a_loss_less_is_better_whatever_it_is_called(tmp_path: Path, given: dict) -> None:
    assert build_arguments(given, 0, tmp_path).greater_is_better is False


@pytest.mark.parametrize("fast", [True, False])
def test_what_is_computed_in_follows_the_hardware_where_a_run_file_leaves_that_open(
    tmp_path: Path, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "has_fast_bfloat16", lambda: fast)
    for train in ({}, {"bf16": None}):
        run = resolve(RunConfig(model="nano", tasks=["boolq"], train=train), empty_base("nano"), tmp_path)
        assert run.args.bf16 is fast


def test_the_best_checkpoint_is_chosen_by_a_loss_of_a_validation(tmp_path: Path) -> None:
    for metric in ("eval_loss", "loss", "eval_loss_macro", "eval_loss/mine", "loss/mine"):
        check_best_metric(build_arguments({"metric_for_best_model": metric}, 0, tmp_path), ["mine"])
    for metric in ("accuracy", "eval_loss/mime"):
        args = build_arguments({"metric_for_best_model": metric}, 0, tmp_path)
        with pytest.raises(UserError, match=f"train.metric_for_best_model: a validation has no '{metric}', it takes "):
            check_best_metric(args, ["mine"])
    check_best_metric(build_arguments({"metric_for_best_model": "x", "eval_strategy": "no"}, 0, tmp_path), ["mine"])
