"""A run file resolved once: everything that it says, chosen and checked, as one value that is handed on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig

from loraweave.bases import is_quantised
from loraweave.bases.load import pick_dtype
from loraweave.bases.quantization import QUANTIZATIONS
from loraweave.data.plan import RowPlan
from loraweave.data.prepare import RunData, prepare
from loraweave.data.schedule import Schedule
from loraweave.errors import UserError
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import RunFolder
from loraweave.runs.methods import ChosenMethod, choose_method
from loraweave.runs.settings import DEFAULTS, build_arguments, check_best_metric
from loraweave.tasks import Task


@dataclass(frozen=True)
class ResolvedRun:
    """A run that can begin.

    Attributes:
        config: the run file with every default of training written out.
        method: what it trains.
        args: for the trainer.
        folder: that it is written to.
    """

    config: RunConfig
    method: ChosenMethod
    args: SFTConfig
    folder: RunFolder

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return bool(self.args.process_index == 0)

    @property
    def schedule(self) -> Schedule:
        """How long it is."""
        return Schedule.of(self.args)

    def prepare_data(
        self, tasks: Sequence[Task], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, console: Console
    ) -> tuple[RunData, RowPlan, RowPlan | None]:
        """The rows to train on and those to validate on; arguments and errors as of `data.prepare.prepare`, and
        UserError where the best checkpoint is to be chosen by what no validation gives."""
        check_best_metric(self.args, [task.name for task in tasks if task.validation_examples()])
        return prepare(
            tasks,
            tokenizer,
            model,
            self.config.mixture,
            self.schedule,
            max_length=self.config.train["max_length"],
            packing=bool(self.config.train["packing"]),
            validate=self.args.eval_strategy != "no",
            cut_prompts=self.config.cut_prompts,
            seed=self.config.seed,
            console=console,
        )


def resolve(config: RunConfig, model: PreTrainedModel, output: str | Path | None = None) -> ResolvedRun:
    """Resolve a run file for a base.

    Args:
        config: the run file.
        model: the base; on the meta device will do.
        output: the run's folder; by default the run file's `output`, else `runs/<method>`.

    Raises:
        UserError: a training argument that transformers or TRL refuses; a quantised base that is to be trained whole,
            or whose kernels train nothing.
    """
    method = choose_method(config.method)
    quantised = config.base.quantization is not None or is_quantised(model.config)
    if quantised and method.method.trains == "everything":
        raise UserError(
            f"method {method.name}: every weight of the base is trained, and those of {config.base} are quantised: "
            "take the unquantised base, or an adapter such as lora"
        )
    quantizer = getattr(model, "hf_quantizer", None)
    if method.method.trains != "nothing" and quantizer is not None and not quantizer.is_trainable:
        raise UserError(
            f"{config.base}: its weights are quantised by {quantizer.quantization_config.quant_method}, through which "
            "no gradient goes: take the unquantised base, with model.quantization where it is too large"
        )
    config = config.model_copy(update={"train": _fitting(config)})
    folder = RunFolder(output or config.output or Path("runs") / method.name)
    config = with_defaults(config, method, model)
    return ResolvedRun(config, method, build_arguments(config.train, config.seed, folder.path), folder)


def _fitting(config: RunConfig) -> dict[str, Any]:
    """The `train` section, without autocast where the base's quantised layers do not take what it makes."""
    base, train = config.base, dict(config.train)
    if train.get("bf16", False) is None:  # as if nothing was said: TRL would take it for true, whatever the hardware
        del train["bf16"]
    if base.quantization is None or not QUANTIZATIONS[base.quantization].own_type:
        return train
    computed = {"bf16": torch.bfloat16, "fp16": torch.float16}
    for key, dtype in computed.items():
        if train.get(key) and pick_dtype(base.dtype) != dtype:
            raise UserError(
                f"train.{key}: {base.quantization} computes in the type that the base is loaded in: set model.dtype to "
                f"{str(dtype).removeprefix('torch.')}, or leave {key} out"
            )
    return {"bf16": pick_dtype(base.dtype) == torch.bfloat16 and not train.get("fp16"), **train}


def with_defaults(config: RunConfig, method: ChosenMethod, model: PreTrainedModel) -> RunConfig:
    """The run file with every default of training written out, for its method on this model."""
    rate = own_rate(config, method, model)
    return config.model_copy(update={"train": {**DEFAULTS, **config.train, "learning_rate": rate}})


def own_rate(config: RunConfig, method: ChosenMethod, model: PreTrainedModel) -> float:
    """The learning rate that the run file has for a method, or else the method's default for this model."""
    rate = config.train.get("learning_rate")
    if isinstance(rate, Mapping):  # one for each method, as a comparison wants them
        rate = rate.get(method.method.name)
    return method.learning_rate(model) if rate is None else rate
