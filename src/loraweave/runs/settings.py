"""The `train` section of a run file: Hugging Face TrainingArguments by their own names, with our defaults.

Every field of TRL's SFTConfig (a TrainingArguments) may be set, except those that this package settles itself.
"""

import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.utils import is_liger_kernel_available
from trl import SFTConfig

from loraweave.bases import device
from loraweave.errors import UserError, check_none, in_a_line, nearest, shown

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 16,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,  # below 1: a share of all steps
    "weight_decay": 0.0,
    "max_length": 512,  # tokens per row, packed or not
    "packing": True,
    "gradient_checkpointing": False,
    "logging_steps": 0.01,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "report_to": "tensorboard",
}

# Fields that would contradict what the package does itself, and where to turn instead.
_SETTLED = {
    "output_dir": "set `output` at the top of the run file",
    "seed": "set `seed` at the top of the run file",
    "data_seed": "set `seed` at the top of the run file",
    "save_only_model": "a run could not go on from such a checkpoint",
    "ignore_data_skip": "a run that goes on sees the data that it has not seen yet",
    "enable_jit_checkpoint": "a run that is asked to end by SIGTERM saves a checkpoint without it",
    "resume_from_checkpoint": "resume with the run's own `resume`",
    "chat_template_path": "set `chat_template: true` at the top of the run file",
    "model_init_kwargs": "set `model` at the top of the run file",
    "auto_find_batch_size": "the order of the data is fixed before the first step; choose per_device_train_batch_size",
    "train_sampling_strategy": "the order of the data comes from `mixture`",
    "shuffle_dataset": "the order of the data comes from `mixture`",
    "dataloader_drop_last": "every row of an epoch is trained on; an epoch's last step may hold fewer",
    "packing_strategy": "packing never splits an example; choose `packing: true` or `false`",
    "padding_free": "choose `packing: true` or `false`",
    "eval_packing": "validation is packed like training",
    "truncation_mode": "an example that is too long loses the beginning of its prompt",
    "eos_token": "answers end as the tokenizer of the base says: change its tokenizer_config.json",
    "pad_token": "rows are filled up with the padding of the base's tokenizer, which is never learned",
    "pad_to_multiple_of": "rows are filled up to the longest of a batch, on a GPU to a multiple of 8",
    "length_column_name": "the order of the data comes from `mixture`",
    "completion_only_loss": "the loss is always on completions only",
    "assistant_only_loss": "the loss is always on completions only",
    "loss_type": "the loss is the negative log-likelihood of the completion",
    "label_smoothing_factor": "the loss is the negative log-likelihood of the completion",
    "remove_unused_columns": "columns are chosen by the package",
    "label_names": "columns are chosen by the package",
    "dataset_kwargs": "data comes from `tasks`",
    "dataset_text_field": "data comes from `tasks`",
    "dataset_num_proc": "data comes from `tasks`",
    "logging_nan_inf_filter": "a loss that is not a number stops the run",
    "disable_tqdm": "the run has one progress bar of its own",
    **dict.fromkeys(
        ("push_to_hub", "hub_model_id", "hub_strategy", "hub_always_push", "hub_private_repo", "hub_revision"),
        "a finished adapter goes to the hub with --push",
    ),
    "hub_token": "the hub's client knows it: hf auth login, or HF_TOKEN",
    "trust_remote_code": "set `trust_code` at the top of the run file",
}
BEST = "eval_loss_macro"
"""What the best checkpoint is chosen by where nothing else is said: the mean over tasks of their losses."""
ONLY = "only"
"""The one field that is not Hugging Face's: what of an adapter is trained, the rest staying as it is."""
KNOWN = {f.name for f in fields(SFTConfig)} - set(_SETTLED)
"""Fields of Hugging Face's that a run file may set."""
_STRATEGIES = ("eval_strategy", "save_strategy", "logging_strategy")

# Transformers and torch take these numbers as they come and fail in the middle of a run, or never.
_RANGES: dict[str, str] = {
    "per_device_train_batch_size": "from 1 to 1,048,576",
    "per_device_eval_batch_size": "from 1 to 1,048,576",
    "gradient_accumulation_steps": "from 1 to 1,048,576",
    "max_length": "from 1 to 1,048,576",
    "num_train_epochs": "above 0, at most a billion",
    "logging_steps": "above 0",
    "eval_steps": "above 0",
    "save_steps": "above 0",
    "learning_rate": "at least 0",
    "warmup_steps": "at least 0",
    "weight_decay": "at least 0",
    "max_grad_norm": "at least 0",
    "adam_epsilon": "at least 0",
    "adam_beta1": "from 0 to below 1",
    "adam_beta2": "from 0 to below 1",
}
_WITHIN: dict[str, dict[str, float]] = {
    "from 1 to 1,048,576": {"minimum": 1, "maximum": 2**20},
    "above 0, at most a billion": {"exclusiveMinimum": 0, "maximum": 10**9},
    "above 0": {"exclusiveMinimum": 0},
    "at least 0": {"minimum": 0},
    "from 0 to below 1": {"minimum": 0, "exclusiveMaximum": 1},
}
_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "minimum": operator.ge,
    "exclusiveMinimum": operator.gt,
    "maximum": operator.le,
    "exclusiveMaximum": operator.lt,
}


def train_bounds(key: str) -> dict[str, float]:
    """The bounds of a number of the `train` section, as JSON schemas have them."""
    return _WITHIN[_RANGES[key]] if key in _RANGES else {}


def train_problems(train: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a `train` section: fields that do not exist, are settled elsewhere, or have a value of another
    kind or out of range. Each line names the field and the nearest known one, where to turn, or what is wanted."""
    for key, value in train.items():
        if key == ONLY:
            if value not in (None, "router"):
                yield f"train.only must be router, or left out to train all, got {shown(value)}"
            continue
        if key in _SETTLED:
            yield f"train.{key} cannot be set: {_SETTLED[key]}"
        elif key not in KNOWN:
            yield f"train.{key} is not a Hugging Face training argument{nearest(key, KNOWN)}"
        else:
            rates = value.values() if key == "learning_rate" and isinstance(value, Mapping) else [value]
            for one in rates:
                try:
                    _check_value(key, one)
                except UserError as error:
                    yield str(error)


def _check_value(key: str, value: Any) -> None:
    hint = train_hints()[key]
    if value is False and key in _STRATEGIES:  # YAML reads `no` as false
        return
    if key == "fsdp" and isinstance(value, bool):  # what transformers documents, though its field is a string
        return
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
        for choices in get_args(hint):
            if isinstance(choices, type) and issubclass(choices, Enum):
                choices(value)
    except ValidationError as error:
        raise UserError(f"train.{key}: {error.errors()[0]['msg']}, got {shown(value)}") from None
    except ValueError as error:
        raise UserError(f"train.{key}: {error}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"train.{key} must be a finite number, got {value!r}")
    if isinstance(value, int) and abs(value) >= 2**31:
        raise UserError(f"train.{key} must be below {2**31:,}, got {shown(value)}")
    wanted = _RANGES.get(key)
    within = value is None or all(_HOLDS[kind](value, bound) for kind, bound in train_bounds(key).items())
    if not within or (value is None and key == "max_length"):
        raise UserError(f"train.{key} must be {wanted}, got {value!r}")
    if key == "report_to":
        for name in [value] if isinstance(value, str) else value or ():
            if name not in (*INTEGRATION_TO_CALLBACK, "all", "none"):
                raise UserError(f"train.report_to: there is no {name!r}{nearest(name, INTEGRATION_TO_CALLBACK)}")
            if name not in (*get_available_reporting_integrations(), "all", "none"):
                raise UserError(f"train.report_to: {name!r} is not installed")


@cache
def train_hints() -> dict[str, Any]:
    """The kind of each field of TRL's SFTConfig, as it is annotated there."""
    return get_type_hints(SFTConfig)


def build_arguments(train: Mapping[str, Any], seed: int, folder: Path) -> SFTConfig:
    """The `train` section over the defaults, as the arguments of one run.

    Args:
        train: fields of SFTConfig.
        seed: of everything random.
        folder: of the run; checkpoints go to `checkpoints/` in it.

    Raises:
        UserError: an unknown or settled field, or a value that transformers or TRL refuses.
    """
    check_none(train_problems(train))
    values = {**DEFAULTS, "bf16": has_fast_bfloat16() and not train.get("fp16"), **train}
    for key in _STRATEGIES:
        values[key] = "no" if values.get(key) is False else values.get(key, "steps")  # YAML reads `no` as false
    if values.get("gradient_checkpointing"):
        values["gradient_checkpointing_kwargs"] = {
            "use_reentrant": False,
            **(values.get("gradient_checkpointing_kwargs") or {}),
        }
    values["metric_for_best_model"] = values.get("metric_for_best_model") or BEST
    if "loss" in values["metric_for_best_model"] and values.get("greater_is_better") is None:
        values["greater_is_better"] = False  # transformers sees a loss only in names that end in it
    if isinstance(values["report_to"], str):
        values["report_to"] = [values["report_to"]]
    values["report_to"] = values["report_to"] or []
    try:
        args = SFTConfig(
            **{
                **{key: value for key, value in values.items() if key != ONLY},
                "output_dir": str(folder / "checkpoints"),
                "report_to": [to for to in values["report_to"] if to not in ("tensorboard", "none")],
                "seed": seed,
                "packing": False,  # rows come packed; TRL's own packing drops the tasks
                "dataset_kwargs": {"skip_prepare_dataset": True},
                "remove_unused_columns": False,
                "logging_nan_inf_filter": False,
                "disable_tqdm": True,
                "use_cpu": values.get("use_cpu", False) or device().type == "cpu",
            }
        )
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"train: {in_a_line(error)}") from error
    if args.n_gpu > 1:  # without a launcher: one device per process, where transformers would take them all
        args._n_gpu = 1
    _check_begins(args)
    return args


def _check_begins(args: SFTConfig) -> None:
    """Raise UserError for what transformers looks at when training begins alone, after all examples were encoded."""
    from transformers import Trainer, get_scheduler

    if args.use_liger_kernel and not is_liger_kernel_available():
        raise UserError("train.use_liger_kernel needs the package liger-kernel: pip install liger-kernel")
    try:
        Trainer.get_optimizer_cls_and_kwargs(args, torch.nn.Linear(1, 1))
    except (ImportError, ValueError, TypeError, NotImplementedError) as error:
        if "No target modules found" not in str(error):  # the model itself may have them
            raise UserError(f"train.optim: {in_a_line(error)}") from error
    one = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate or 1.0)
    how = args.lr_scheduler_kwargs
    try:
        get_scheduler(args.lr_scheduler_type, one, 1, 100, scheduler_specific_kwargs=how)
    except (ValueError, TypeError, AttributeError) as error:
        kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        raise UserError(
            f"train.lr_scheduler_kwargs: the schedule {kind} does not go with {how or 'none'}: {in_a_line(error)}"
        ) from error


def check_best_metric(args: SFTConfig, names: Iterable[str]) -> None:
    """Raise UserError where the best checkpoint is to be chosen by what no validation gives; it would be told after the
    first one.

    Args:
        names: of the tasks that have rows to validate on.
    """
    losses = ["eval_loss", BEST, *(f"eval_loss/{name}" for name in names)]
    metric = str(args.metric_for_best_model)
    if args.eval_strategy != "no" and f"eval_{metric.removeprefix('eval_')}" not in losses:
        raise UserError(
            f"train.metric_for_best_model: a validation has no {metric!r}, it takes {', '.join(losses)}"
            f"{nearest(metric, losses)}"
        )


def uses_fsdp(args: SFTConfig) -> bool:
    """Whether the run file or the launcher asks for FSDP."""
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def has_fast_bfloat16() -> bool:
    """Whether to compute in bfloat16: on a GPU or a CPU that has instructions for it."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
