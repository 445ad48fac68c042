"""Quantised bases: how a small one is made with each library that runs on a CPU, and what an adapter does on it."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from compatibility.cases import Case, assert_close, layers_of
from compatibility.models import GROUPED, Architecture, from_config
from peft import PeftModel, prepare_model_for_kbit_training
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, QuantoConfig, TorchAoConfig

SIZES = {**GROUPED, "hidden_size": 64, "intermediate_size": 128}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
plain_base = from_config(AutoModelForCausalLM, "llama", SIZES)


def _loaded(settings: Callable[[], Any]) -> Callable[[Path], nn.Module]:
    """Quantised by transformers as it loads."""

    def build(folder: Path) -> nn.Module:
        plain_base().save_pretrained(folder)
        options = {"quantization_config": settings(), "device_map": "cpu", "dtype": torch.float32}
        return AutoModelForCausalLM.from_pretrained(folder, **options).eval()

    return build


def _torchao(config: str, **options: Any) -> Callable[[Path], nn.Module]:
    def settings() -> TorchAoConfig:
        from torchao import quantization

        if "granularity" in options:
            options["granularity"] = quantization.PerGroup(32)
        return TorchAoConfig(getattr(quantization, config)(**options))

    return _loaded(settings)


def _bitsandbytes_4(**options: Any) -> Callable[[Path], nn.Module]:
    return _loaded(lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, **options))


def _hqq(folder: Path) -> nn.Module:
    """By the library itself: transformers 5 does not load it at present."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    model = plain_base()
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name in PROJECTIONS:
                if hasattr(part, name):
                    settings = BaseQuantizeConfig(nbits=4, group_size=64)
                    quantised = HQQLinear(getattr(part, name), settings, compute_dtype=torch.float32, device="cpu")
                    setattr(part, name, quantised)
    return model


@dataclass(frozen=True)
class Kind:
    """One way to quantise: the module it needs, and the model."""

    library: str
    build: Callable[[Path], nn.Module]


KINDS: dict[str, Kind] = {
    "bitsandbytes, 4 bits (nf4)": Kind("bitsandbytes", _bitsandbytes_4(bnb_4bit_quant_type="nf4")),
    "bitsandbytes, 4 bits twice quantised": Kind("bitsandbytes", _bitsandbytes_4(bnb_4bit_use_double_quant=True)),
    "bitsandbytes, 8 bits": Kind("bitsandbytes", _loaded(lambda: BitsAndBytesConfig(load_in_8bit=True))),
    "torchao, int8 weights": Kind("torchao", _torchao("Int8WeightOnlyConfig")),
    "torchao, int8 weights and activations": Kind("torchao", _torchao("Int8DynamicActivationInt8WeightConfig")),
    "torchao, int4 weights in groups": Kind(
        "torchao", _torchao("IntxWeightOnlyConfig", weight_dtype=torch.int4, granularity=None)
    ),
    "torchao, float8 weights": Kind("torchao", _torchao("Float8WeightOnlyConfig")),
    "HQQ, 4 bits": Kind("hqq", _hqq),
    "Quanto, int8 weights": Kind("optimum.quanto", _loaded(lambda: QuantoConfig(weights="int8"))),
    "Quanto, int4 weights": Kind("optimum.quanto", _loaded(lambda: QuantoConfig(weights="int4"))),
}

NOT_RUN = {
    "GPTQ, AWQ": "needs gptqmodel, which has no ready-built package for a CPU",
    "EETQ": "needs kernels from the model hub and a GPU",
    "AQLM, SpQR, VPTQ, BitNet, compressed-tensors": "need checkpoints that are quantised already",
    "FP8 in blocks, FP-Quant, HIGGS, MXFP4": "need a GPU",
}
"""Kinds that PEFT or transformers know and that are not tried here, and why."""


def quantised(kind: str, folder: Path) -> nn.Module:
    """The small quantised base; skips where the library is not installed."""
    library = KINDS[kind].library
    try:
        found = importlib.util.find_spec(library)
    except ModuleNotFoundError:  # the package around it is not there either
        found = None
    if found is None:
        pytest.skip(f"needs {library}: pip install 'loraweave[quantized]'")
    return KINDS[kind].build(folder)


def case_of(method: str) -> Case:
    return Case(Architecture("quantised llama", "causal", plain_base, "CAUSAL_LM", targets=PROJECTIONS), method)


CHECKS: dict[str, Callable[[Case, str, Path], str | None]] = {}


def check(function: Callable[[Case, str, Path], str | None]) -> Callable[[Case, str, Path], str | None]:
    """Enter a behaviour; it returns None, or what was said when it was refused, as it should be."""
    CHECKS[function.__name__] = function
    return function


@check
def quantised_start(case: Case, kind: str, folder: Path) -> None:
    """At the start the model is the quantised base."""
    base = quantised(kind, folder)
    expected = case.output(base, tasks=())
    assert not torch.allclose(expected, case.output(plain_base(), tasks=()), atol=1e-6)  # it is quantised
    # An anchor cancels up to rounding, and rounding is coarse where activations or products are quantised too.
    assert_close(case.output(case.adapted(base)), expected, 2e-2 if case.config().start == "random_anchored" else 1e-5)


@check
def quantised_training(case: Case, kind: str, folder: Path) -> None:
    """After `prepare_model_for_kbit_training`, with checkpointing, every adapter tensor gets a gradient."""
    base = prepare_model_for_kbit_training(quantised(kind, folder))
    model = case.adapted(base)
    moved = case.train(model)
    assert any("weave_" in name for name in moved)
    assert not [name for name, total in moved.items() if total == 0]
    assert len(layers_of(model)) == (2 if case.beside_blocks else 14)


@check
def quantised_saving(case: Case, kind: str, folder: Path) -> None:
    """Saved and loaded onto the quantised base, the adapter gives the same output."""
    model = case.changed(quantised(kind, folder / "base"))
    expected = case.output(model)
    model.save_pretrained(folder / "adapter")
    loaded = PeftModel.from_pretrained(quantised(kind, folder / "base"), folder / "adapter").eval()
    assert_close(case.output(loaded), expected)


@check
def quantised_merging(case: Case, kind: str, folder: Path) -> str:
    """Merging into it."""
    from loraweave import UserError

    model = case.changed(quantised(kind, folder))
    before = case.output(model)
    with case.one_task(model), pytest.raises(UserError) as error:
        model.merge_adapter()
    assert_close(case.output(model), before)
    return str(error.value)
