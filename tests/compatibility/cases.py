"""A case is one method on one architecture; a behaviour is a property that a case has, or a reason why it cannot."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
from compatibility.models import ARCHITECTURES, Architecture
from tiny_adapters import preset
from torch import Tensor, nn

import loraweave
from loraweave import WeaveConfig
from loraweave.adapters.tensors import TRAINED
from loraweave.config import PRESETS

NAMES = ["a", "b"]
TASKS = ["a", "b", "a"]  # of the three examples

# Knobs that no paper combined. Presets enter by themselves.
FREE: dict[str, dict[str, Any]] = {
    "weave": {},
    "weave (anchored channel gate)": {"num_heads": 2, "gate": "channel", "start": "random_anchored"},
    "weave (routed experts with task transforms)": {
        "num_heads": 2,
        "down": "per_head",
        "gate": "token",
        "task_transform": True,
    },
}
METHODS: list[str] = [*PRESETS, *FREE]
# Router, anchor, masks per head; task gate, task transform; a head for each task; beside blocks, groups of channels.
CORE = ("rlora", "mtllora", "own", "mtlora")


@dataclass(frozen=True)
class Case:
    """One method on one architecture, and what a behaviour needs to try it."""

    architecture: Architecture
    method: str

    def config(self, **knobs: Any) -> WeaveConfig:
        """The method's configuration at rank 2 with two tasks; `knobs` override."""
        free = FREE.get(self.method, {})
        settings = {"r": 2, "task_names": NAMES, "task_type": self.architecture.task_type, **free}
        settings["target_modules"] = [self.architecture.block] if self.beside_blocks else self.architecture.targets
        return preset(self.method if self.method in PRESETS else "weave", **{**settings, **knobs})

    def adapted(self, base: nn.Module | None = None, **knobs: Any) -> nn.Module:
        """An adapted model in eval mode, the same at every call."""
        base = base or self.architecture.build()
        torch.manual_seed(2)
        return peft.get_peft_model(base, self.config(**knobs)).eval()

    def changed(self, base: nn.Module | None = None, **knobs: Any) -> nn.Module:
        """As `adapted`, with an update that is no longer zero and differs between the tasks."""
        model = self.adapted(base, **knobs)
        disturb(model)
        return model

    def output(self, model: nn.Module, tasks: Any = TASKS, rows: slice = slice(None), **inputs: Any) -> Tensor:
        """Logits of the examples, or of some of their rows. `tasks=()` passes none."""
        given = {k: v[rows] for k, v in self.architecture.inputs().items()} | inputs
        with torch.no_grad():
            result = model(**given, **({} if tasks == () else {"tasks": tasks}))
        return result if isinstance(result, Tensor) else result.logits

    def loss(self, model: nn.Module, tasks: Any = TASKS) -> Tensor:
        """A loss over the three examples."""
        dtype = next(p.dtype for name, p in model.named_parameters() if "weave_" not in name)
        inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in self.architecture.inputs().items()}
        result = model(**inputs, tasks=tasks)
        return torch.nn.functional.mse_loss(result, inputs["labels"]) if isinstance(result, Tensor) else result.loss

    def train(self, model: nn.Module, steps: int = 3) -> dict[str, float]:
        """Train with AdamW, back to eval mode; how much gradient each trained tensor got in all."""
        model.train()
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
        moved = dict.fromkeys(trained, 0.0)
        for _ in range(steps):
            self.loss(model).backward()
            for name, parameter in trained.items():
                moved[name] += 0.0 if parameter.grad is None else float(parameter.grad.abs().sum())
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        return moved

    def first_call(self, model: nn.Module) -> tuple[loraweave.tuner.WeaveLinear, Callable[[nn.Module], Tensor]]:
        """The first adapted layer, and a function that calls a module as the model calls this layer: its first output.

        No tasks are set in that call, and no cache is given, which would grow from call to call.
        """
        layer, given = layers_of(model)[0], []
        handle = layer.register_forward_pre_hook(lambda _, *call: given.append(call), with_kwargs=True)
        self.output(model, **({"use_cache": False} if self.architecture.generates else {}))
        handle.remove()
        args, kwargs = given[0]

        def call(module: nn.Module) -> Tensor:
            out = module(*args, **kwargs)
            return out if isinstance(out, Tensor) else out[0]

        return layer, call

    @property
    def beside_blocks(self) -> bool:
        """Whether the adapters stand beside whole blocks, and not beside single linear layers."""
        return self.method == "mtlora" and self.architecture.block is not None

    @property
    def needs_tasks(self) -> bool:
        return self.config().needs_tasks

    @property
    def depends_on_input(self) -> bool:
        return self.config().depends_on_input

    def one_task(self, model: nn.Module) -> AbstractContextManager:
        """Everything inside is for task b."""
        return loraweave.task(model, "b")


def disturb(model: nn.Module, adapter: str = "default") -> None:
    """Move every trained adapter tensor at random, so that tasks and heads differ; the same way for the same name."""
    seed = torch.Generator().manual_seed(len(adapter))
    for layer in layers_of(model):
        for name in TRAINED:
            if adapter in (parameters := getattr(layer, name)):
                tensor = parameters[adapter].data
                tensor += (0.1 * torch.randn(tensor.shape, generator=seed)).to(tensor.dtype)


def layers_of(model: nn.Module) -> list[loraweave.tuner.WeaveLinear]:
    return [m for m in model.modules() if isinstance(m, loraweave.tuner.WeaveLinear)]


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal up to `tolerance`, counted from the size of what is expected."""
    scale = float(expected.abs().max().clamp(min=1e-6))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)


def assert_near(found: Tensor, expected: Tensor, share: float) -> None:
    """The difference's norm is below a share of what is expected: for arithmetic in half precision."""
    assert float((found - expected).norm()) < share * float(expected.norm())


Rule = Callable[[Case], Any]


@dataclass(frozen=True)
class Behaviour:
    """A property of a case. `check` raises unless it holds.

    refused: for which cases our own code must refuse with a UserError: "no" on the page, with its message.
    impossible: why it cannot be for a case, though our code does not refuse; `check` must then fail.
    pointless: why it means nothing for a case, which is then not run.
    everywhere: whether a quick run tries it on all architectures; False where it hangs on the layer, not on the model.
    """

    check: Callable[[Case, Path], None]
    group: str
    refused: Rule = lambda case: False
    impossible: Rule = lambda case: None
    pointless: Rule = lambda case: None
    everywhere: bool = True

    @property
    def name(self) -> str:
        return self.check.__name__

    @property
    def text(self) -> str:
        """The row's text: the first line of the docstring."""
        return (self.check.__doc__ or "").strip().splitlines()[0].rstrip(".")


BEHAVIOURS: dict[str, Behaviour] = {}


def behaviour(group: str, **rules: Any) -> Callable[[Callable[[Case, Path], None]], Callable[[Case, Path], None]]:
    """Enter a function into the matrix."""

    def enter(check: Callable[[Case, Path], None]) -> Callable[[Case, Path], None]:
        BEHAVIOURS[check.__name__] = Behaviour(check, group, **rules)
        return check

    return enter


@dataclass(frozen=True)
class Cell:
    """One test of the matrix."""

    behaviour: Behaviour
    case: Case
    core: bool = field(default=True)

    @property
    def id(self) -> str:
        return f"{self.behaviour.name}-{self.case.architecture.name}-{self.case.method}".replace(" ", "_")


def cells() -> list[Cell]:
    """Every cell that means something; `core` marks those of a quick run.

    On llama that is the methods of `CORE` and every twelfth of the others, elsewhere one of `CORE` for every second
    behaviour; in turns.
    """

    def core(i: int, j: int, method: str) -> bool:
        if j == 0:
            return method in CORE or (i + METHODS.index(method)) % 12 == 0
        turn, left = divmod(i + j, 2)
        return not left and method == CORE[turn % len(CORE)] and list(BEHAVIOURS.values())[i].everywhere

    return [
        Cell(behaviour, case, core(i, j, method))
        for i, behaviour in enumerate(BEHAVIOURS.values())
        for j, architecture in enumerate(ARCHITECTURES.values())
        for method in METHODS
        if behaviour.pointless(case := Case(architecture, method)) is None
    ]
