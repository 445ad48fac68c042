"""The methods by name: what each one trains, its default learning rate, and how its configuration is built.

A method is given as a name (`rlora`), as a mapping with a name and fields of that method's configuration
(`{name: rlora, r: 8, target_modules: [q_proj, v_proj]}`), as bare knobs of `WeaveConfig`
(`{num_heads: 4, gate: token}`), or as the folder of an adapter to train on (`{adapter: FOLDER}`).
The mapping also takes the fields of `LossConfig` (`{name: lora, alignment: 0.2}`), and a `label`, by which a
comparison tells two of the same name apart (`{name: lora, label: lora-r32, r: 32}`).
A new method is one entry in `METHODS`.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from peft import LoraConfig, PeftConfig
from pydantic import ValidationError
from transformers import PreTrainedModel

from loraweave.adapters.config import read_config
from loraweave.config import (
    ComolConfig,
    HydraLoraConfig,
    LoraMoeConfig,
    LoriConfig,
    MLoraConfig,
    MoeLoraConfig,
    MolaConfig,
    MtlLoraConfig,
    MtLoraConfig,
    MultiLoraConfig,
    OwnLoraConfig,
    RLoraConfig,
    SmoraConfig,
    WeaveConfig,
)
from loraweave.errors import UserError, check_none, in_a_line, nearest, shown
from loraweave.runs.fields import NOT_DONE, field_problems, not_done
from loraweave.runs.language import beside_language, leaving_out
from loraweave.runs.loss_config import LossConfig

MethodSpec = str | Mapping[str, Any]

_REFERENCE_WIDTH = 2048  # the hidden size at which the learning rates below hold
_SET_BY_US = {f.name for f in fields(PeftConfig)} | {"method", "task_names", "beside_blocks"}


@dataclass(frozen=True)
class Method:
    """How to adapt a model.

    Args:
        name: as written in a run file.
        description: one line for people.
        learning_rate: default for AdamW on a model of hidden size 2,048; see `ChosenMethod.learning_rate`.
        trains: "nothing", "everything" or "adapter".
        config_class: the PEFT configuration, for adapters.
        defaults: fields in which we differ from the configuration class's own defaults.
        losses: added to the language model's; fields of `LossConfig`.
        paper: its number on arXiv.
    """

    name: str
    description: str
    learning_rate: float
    trains: Literal["nothing", "everything", "adapter"] = "adapter"
    config_class: type[PeftConfig] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    losses: Mapping[str, Any] = field(default_factory=dict)
    paper: str | None = None

    def fields(self) -> list[str]:
        """Names that a run file may set for this method."""
        if self.config_class is None:
            return []
        own = [f.name for f in fields(self.config_class) if f.name not in _SET_BY_US and f.name not in NOT_DONE]
        return own + list(LossConfig.model_fields)


_LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": "all-linear"}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("base", "the untouched base model", 0.0, "nothing"),
        Method("full", "full fine-tuning: every weight of the base", 5e-5, "everything"),
        Method(
            "lora",
            "LoRA, PEFT's own: one low-rank update per layer",
            2e-4,
            config_class=LoraConfig,
            defaults=_LORA,
            paper="2106.09685",
        ),
        Method(
            "rslora",
            "rsLoRA, PEFT's own: LoRA scaled by 1 / sqrt(r)",
            2e-4,
            config_class=LoraConfig,
            defaults={**_LORA, "use_rslora": True},
            paper="2312.03732",
        ),
        Method(
            "dora",
            "DoRA, PEFT's own: LoRA on the direction of W, its magnitude learned apart",
            2e-4,
            config_class=LoraConfig,
            defaults={**_LORA, "use_dora": True},
            paper="2402.09353",
        ),
        Method(
            "alignlora",
            "Align-LoRA: LoRA with a loss that brings the tasks' A x together",
            2e-4,
            config_class=LoraConfig,
            defaults={**_LORA, "lora_alpha": 32, "lora_dropout": 0.1},
            losses={"alignment": 0.2},
            paper="2508.05078",
        ),
        Method(
            "multilora",
            "MultiLoRA: parallel updates, scaled per output channel",
            3e-4,
            config_class=MultiLoraConfig,
            paper="2311.11501",
        ),
        Method(
            "hydralora",
            "HydraLoRA: one A, several B mixed by a router",
            2e-4,
            config_class=HydraLoraConfig,
            paper="2404.19245",
        ),
        Method(
            "rlora",
            "R-LoRA: HydraLoRA with random heads and a dropout each",
            2e-4,
            config_class=RLoraConfig,
            paper="2502.15455",
        ),
        Method(
            "mlora",
            "M-LoRA: R-LoRA without the router, heads averaged",
            2e-4,
            config_class=MLoraConfig,
            paper="2508.05078",
        ),
        Method(
            "mtllora",
            "MTL-LoRA: a transform and a mixture of heads per task",
            3e-4,
            config_class=MtlLoraConfig,
            paper="2410.09437",
        ),
        Method(
            "moelora",
            "MoE-LoRA: experts mixed by a task embedding",
            2e-4,
            config_class=MoeLoraConfig,
            paper="2310.18339",
        ),
        Method(
            "own",
            "one LoRA per task, trained together in one adapter",
            2e-4,
            config_class=OwnLoraConfig,
            paper="2603.09298",
        ),
        Method(
            "loramoe",
            "LoRAMoE: experts mixed by a router on x",
            2e-4,
            config_class=LoraMoeConfig,
            paper="2312.09979",
        ),
        Method(
            "mola",
            "MoLA: the best two experts of each token, more experts in higher layers",
            3e-4,
            config_class=MolaConfig,
            paper="2402.08562",
        ),
        Method(
            "smora",
            "SMoRA: every rank an expert, the best quarter of them for each token",
            2e-4,
            config_class=SmoraConfig,
            paper="2501.15103",
        ),
        Method(
            "mtlora",
            "mtLoRA: a routed adapter beside each feed-forward block, routed by groups of channels",
            2e-4,
            config_class=MtLoraConfig,
            losses={"spectral": 1.0},
            paper="2603.01526",
        ),
        Method(
            "lori",
            "LoRI: a frozen random A, a B per task",
            2e-4,
            config_class=LoriConfig,
            paper="2504.07448",
        ),
        Method(
            "comol",
            "CoMoL: one A and one B, small matrices between them mixed by a router",
            2e-4,
            config_class=ComolConfig,
            paper="2603.00573",
        ),
        Method("weave", "your own choice of WeaveConfig's knobs", 2e-4, config_class=WeaveConfig),
    )
}


@dataclass(frozen=True)
class ChosenMethod:
    """A method with what a run file sets of it.

    Attributes:
        method: which one.
        given: the fields that were set.
        losses: added to the language model's.
        label: what it is called in place of the method's name.
        adapter: the folder of an adapter that it trains on, as that is configured; None for a new one.
    """

    method: Method
    given: dict[str, Any]
    losses: LossConfig
    label: str | None = None
    adapter: Path | None = None

    @property
    def name(self) -> str:
        """Its label, or else the method's name."""
        return self.label or self.method.name

    @property
    def spec(self) -> dict[str, Any]:
        """As a mapping that a run file may hold."""
        start = {"adapter": str(self.adapter)} if self.adapter else {}
        return {"name": self.method.name, **({"label": self.label} if self.label else {}), **start, **self.given}

    def peft_config(
        self, task_names: Sequence[str] | None = None, base: PreTrainedModel | None = None
    ) -> PeftConfig | None:
        """The PEFT configuration; None where the method has no adapter (`base`, `full`).

        Args:
            task_names: the run's tasks in the order of their ids; a Weave method saves them with the adapter. Where
                they are not known, some stand for them: as many as the heads that are said, for each may have its task.
            base: that it is for: what text never reaches in it is left out.

        Raises:
            UserError: values out of range, knobs that do not go together, or an adapter to train on that is not there
                or is of another method.
        """
        config_class = self.method.config_class
        if config_class is None:
            return None
        if task_names is None:
            task_names = [f"task {number}" for number in range(self.given.get("num_heads", 1))]
        if self.adapter is not None:
            return self._trained_on(self.adapter, task_names)
        fields_of_class = {key: value for key, value in self.given.items() if key not in LossConfig.model_fields}
        # PEFT writes into what it is given: ranks of experts that transformers has fused into one weight
        values = copy.deepcopy({**self.method.defaults, **fields_of_class, "task_type": "CAUSAL_LM"})
        if issubclass(config_class, WeaveConfig):
            values["task_names"] = list(task_names)
        if base is not None and (parts := beside_language(base)):
            values["exclude_modules"] = leaving_out(parts, values.get("exclude_modules"))
        try:
            return config_class(**values)
        except (ValueError, TypeError) as error:
            raise UserError(f"method {self.name}: {in_a_line(error)}") from error

    def _trained_on(self, folder: Path, task_names: Sequence[str]) -> PeftConfig:
        config: Any = read_config(folder)
        if (found := method_of(config)) != self.method.name:
            raise UserError(f"method {self.name}: {folder} is an adapter of the method {found}: leave the name out")
        config.inference_mode = False
        if isinstance(config, WeaveConfig) and not config.needs_tasks:
            config.task_names = list(task_names)
        return config

    def learning_rate(self, model: PreTrainedModel) -> float:
        """The default learning rate for a model: in inverse proportion to its width, below a hidden size of 2,048.

        The papers tuned theirs on models of 0.9k to 4k channels; AdamW's best step on a matrix shrinks with its width.
        """
        width = getattr(model.config.get_text_config(), "hidden_size", _REFERENCE_WIDTH)
        return self.method.learning_rate * max(1.0, _REFERENCE_WIDTH / width)


def choose_method(spec: MethodSpec) -> ChosenMethod:
    """The method that `spec` names, with the fields that it sets.

    Raises:
        UserError: an unknown method or field (with the nearest known one), a rank below 1, a label that is no name
            of its own, or a loss's weight of another kind or out of range.
    """
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    adapter, label = given.pop("adapter", None), given.pop("label", None)
    if adapter is not None and not isinstance(adapter, str | Path):
        raise UserError(f"method: adapter must be the folder of one, got {shown(adapter)}")
    if adapter is not None and "name" not in given:
        given["name"] = method_of(read_config(Path(adapter)))
    name = given.pop("name", "weave")
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(f"unknown method {shown(name)}{nearest(str(name), METHODS)} (known: {', '.join(METHODS)})")
    method = METHODS[name]
    known = method.fields()
    if adapter is not None:
        if method.config_class is None:
            raise UserError(f"method {name}: it has no adapter that could be trained on")
        known = [*LossConfig.model_fields]
        if own := next((key for key in given if key in method.fields() and key not in known), None):
            raise UserError(f"method {name}: {own} is the adapter's own, which is trained on as it is: leave it out")
    losses = {**method.losses, **{key: value for key, value in given.items() if key in LossConfig.model_fields}}
    check_none(_problems(method, given, known, label, losses))
    folder = None if adapter is None else Path(adapter)
    return ChosenMethod(method, given, LossConfig.model_validate(losses), label, folder)


def _problems(
    method: Method, given: Mapping[str, Any], known: list[str], label: Any, losses: Mapping[str, Any]
) -> Iterator[str]:
    """What is wrong with the fields that are set of a method, a line each."""
    name = method.name
    for key, value in given.items():
        if method.config_class is LoraConfig and (reason := not_done(key, value)) is not None:
            yield f"method {name}: {reason}"
        elif key not in known:
            allowed = nearest(key, known) if known else f": {name} takes none"
            yield f"method {name}: unknown field {shown(key)}{allowed}"
    rank = given.get("r", 1)
    whole = isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1
    if not whole:
        yield f"method {name}: r (the rank) must be a whole number of at least 1, got {shown(rank)}"
    yield from field_problems(name, method.config_class, {k: v for k, v in given.items() if k != "r" or whole})
    if label is not None:
        yield from _label_problems(name, label)
    try:
        LossConfig.model_validate(losses)
    except ValidationError as error:
        for problem in error.errors():
            yield f"method {name}: {problem['loc'][0]}: {problem['msg']}, got {shown(problem['input'])}"


def method_of(config: PeftConfig) -> str:
    """The method of an adapter's configuration, by the name that a run file has for it."""
    if not isinstance(config, WeaveConfig):
        return "lora"
    return config.method if config.method in METHODS else "weave"


def _label_problems(name: str, label: Any) -> Iterator[str]:
    """A label is part of folders' names, and must not be taken for another method."""
    if not isinstance(label, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", label):
        yield f"method {name}: label must be a word of letters, digits and . _ + -, 64 at most, got {shown(label)}"
    elif label in METHODS and label != name:
        yield f"method {name}: label {shown(label)} is the name of another method"
