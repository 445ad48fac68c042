"""What is run, in which order, and which paired comparison decides which claim. PLAN.md has it in words, and why."""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, Literal

Regime = Literal["shared", "apart"]
REGIMES: tuple[Regime, ...] = ("shared", "apart")
MARGIN = 1.0
"""Points of the mean over tasks: what is shown to be a smaller gain is none, and what is shown to be a smaller loss."""
RATES = ("1x", "2x", "4x")
"""Of each method's default. Each is a whole training; the one that is taken is the first seed's run."""
SEEDS = (0, 1, 2)

# R-LoRA's heads and scaling for every method that its claims are about, so that only what is asked about differs.
HEADS = {"r": 4, "lora_alpha": 32, "num_heads": 5, "use_rslora": True}

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora", "r": 16, "lora_alpha": 32},
    "lora-double": {"name": "lora", "label": "lora-double", "r": 32, "lora_alpha": 64},
    "full": {"name": "full"},
    "rslora": {"name": "rslora"},
    "alignlora": {"name": "alignlora", "r": 16, "lora_alpha": 32, "lora_dropout": 0.05},  # `lora` and the loss
    "multilora": {"name": "multilora"},
    "hydralora": {"name": "hydralora", **HEADS},
    "rlora": {"name": "rlora", **HEADS},
    "rlora-no-start": {"name": "rlora", "label": "rlora-no-start", **HEADS, "start": "zero_up"},
    "rlora-no-dropout": {
        "name": "rlora", "label": "rlora-no-dropout", **HEADS, "head_dropout": False, "lora_dropout": 0.05,
    },
    "mlora": {"name": "mlora", **HEADS},
    "mtllora": {"name": "mtllora"},
    "own": {"name": "own"},
    "loramoe": {"name": "loramoe"},
    "hydralora-blocks": {"name": "hydralora", "label": "hydralora-blocks", **HEADS, "target_modules": ["mlp"]},
    "mtlora": {"name": "mtlora", **HEADS},
}  # fmt: skip
"""By the name in tables. Their ranks are replaced by those at which they train as many parameters as `lora`."""
UNMATCHED = ("lora", "lora-double", "full")


@dataclass(frozen=True)
class Budget:
    """How long a run is, and what it is scored on.

    Attributes:
        steps, batch: optimizer steps, and rows of 256 tokens in each.
        limit: test examples per task.
        seeds: of every method.
        step_seconds, evaluation_seconds: of one step and of scoring one run, as far as nothing was measured yet.
    """

    name: str
    steps: int
    batch: int
    limit: int
    seeds: tuple[int, ...]
    step_seconds: float
    evaluation_seconds: float


BUDGETS = {
    budget.name: budget
    for budget in (
        Budget("small", 120, 2, 100, SEEDS, step_seconds=3.0, evaluation_seconds=200.0),  # a CPU core for a regime
        Budget("large", 500, 16, 500, (0, 1, 2, 3, 4), step_seconds=0.4, evaluation_seconds=60.0),  # one accelerator
    )
}


@dataclass(frozen=True)
class Stage:
    """Methods that are run together, with one seed, and why they come here."""

    regime: Regime
    methods: tuple[str, ...]
    seed: int
    why: str


def stages(budget: Budget) -> list[Stage]:
    """All of the study in the order in which it is run: a stage for each regime, group of methods and seed; with the
    first two seeds, from which on a claim can be told, everything before anything with a third."""
    found: list[Stage] = []
    listed: set[tuple[str, str, int]] = set()
    first, rest = budget.seeds[:2], budget.seeds[2:]
    passes = [(entry, first) for entry in _ORDER] + [(entry, rest) for entry in _ORDER]
    for (regime, methods, seeds, why), usual in [*passes, *((entry, ()) for entry in _MORE)]:
        for seed in usual if seeds is None else seeds:
            new = tuple(method for method in methods if (regime, method, seed) not in listed)
            listed |= {(regime, method, seed) for method in new}
            found += [Stage(regime, new, seed, why)] if new else []
    return found


_ORDER: list[tuple[Regime, tuple[str, ...], tuple[int, ...] | None, str]] = [
    ("shared", ("lora",), None, "what the others are compared with"),
    ("apart", ("lora",), None, "what the others are compared with"),
    ("shared", ("mtllora",), None, "the method that is told the task and shares the rest"),
    ("apart", ("rlora", "hydralora"), None, "R-LoRA's claim, on tasks like its paper's"),
    ("shared", ("own",), None, "is there interference at all, where it should be"),
    ("apart", ("multilora",), None, "MultiLoRA's claim"),
    ("apart", ("full",), (0,), "MultiLoRA's update beside full fine-tuning's"),
    ("shared", ("rlora", "hydralora"), None, "R-LoRA's claim, where tasks disagree"),
    ("apart", ("mlora",), None, "whether the router is needed"),
    ("shared", ("multilora",), None, "MultiLoRA's claim, where tasks disagree"),
    ("apart", ("hydralora-blocks", "mtlora"), None, "mtLoRA: its placement, and the rest"),
    ("shared", ("alignlora", "mlora"), None, "bringing tasks together, and no router, where they disagree"),
    ("apart", ("rlora-no-start", "rlora-no-dropout"), None, "each of R-LoRA's two parts by itself"),
    ("apart", ("mtllora", "own"), None, "what is told the task, where tasks do not meet"),
    ("apart", ("alignlora", "loramoe"), None, "what Align-LoRA's loss adds, and what a mixture keeps of the base"),
    ("apart", ("lora-double", "rslora"), None, "more rank, and another scaling"),
    ("shared", ("rlora-no-start", "rlora-no-dropout", "hydralora-blocks", "mtlora", "loramoe"), None, "the rest"),
]
_MORE: list[tuple[Regime, tuple[str, ...], tuple[int, ...], str]] = [
    ("apart", ("lora", "rlora", "hydralora", "multilora"), (3, 4), "five seeds for the pairs of the first claims"),
    ("shared", ("lora", "own", "mtllora"), (3, 4), "and of these"),
]

Measure = Literal["effective_rank", "overlap_with_full", "head_similarity", "learned_similarity", "forgetting"]
Kind = Literal["more", "no worse", "no gain"]


@dataclass(frozen=True)
class Test:
    """One paired comparison: `left` minus `right`, with the same seed and, for scores, example by example.

    Attributes:
        kind: "more": the claim is that left is better, or that its measure is higher. "no worse": that left is worse by
            less than the margin, if at all. "no gain": that left is better by less than the margin, if at all.
        measure: what is compared in place of the mean score; `lower` says that the claim is of less.
    """

    left: str
    right: str
    regime: Regime
    kind: Kind = "more"
    measure: Measure | None = None
    lower: bool = False


@dataclass(frozen=True)
class Claim:
    """What a paper says, in one line, and the tests that decide it here."""

    paper: str
    text: str
    tests: tuple[Test, ...] = field(default=())


def _both(left: str, right: str, kind: Kind = "more") -> tuple[Test, ...]:
    return tuple(Test(left, right, regime, kind) for regime in ("apart", "shared"))


CLAIMS: tuple[Claim, ...] = (
    Claim("2311.11501", "MultiLoRA beats LoRA at equal parameters", _both("multilora", "lora")),
    Claim(
        "2311.11501",
        "MultiLoRA's update is less dominated by a few directions",
        (Test("multilora", "lora", "apart", measure="effective_rank"),),
    ),
    Claim(
        "2311.11501",
        "MultiLoRA's subspaces are more like full fine-tuning's",
        (Test("multilora", "lora", "apart", measure="overlap_with_full"),),
    ),
    Claim("2502.15455", "R-LoRA beats HydraLoRA", _both("rlora", "hydralora")),
    Claim(
        "2502.15455",
        "R-LoRA's heads are less alike than HydraLoRA's",
        (
            Test("rlora", "hydralora", "apart", measure="head_similarity", lower=True),
            Test("rlora", "hydralora", "apart", measure="learned_similarity", lower=True),
        ),
    ),
    Claim("2502.15455", "R-LoRA's random start helps by itself", _both("rlora-no-dropout", "hydralora")),
    Claim("2502.15455", "R-LoRA's dropout per head helps by itself", _both("rlora-no-start", "hydralora")),
    Claim("2508.05078", "M-LoRA, without a router, is at least as good as R-LoRA", _both("mlora", "rlora", "no worse")),
    Claim(
        "2508.05078",
        "A LoRA of higher rank is as good as either",
        (
            Test("lora", "rlora", "apart", "no worse"),
            Test("lora", "mlora", "apart", "no worse"),
            Test("lora-double", "rlora", "apart", "no worse"),
            Test("lora", "rlora", "shared", "no worse"),
        ),
    ),
    Claim("2410.09437", "MTL-LoRA beats LoRA", _both("mtllora", "lora")),
    Claim("2508.05078", "Align-LoRA beats LoRA", _both("alignlora", "lora")),
    Claim(
        "2603.09298",
        "An expert for each task avoids interference",
        (Test("own", "lora", "shared"), Test("own", "lora", "apart")),
    ),
    Claim(
        "2603.01526",
        "An adapter beside the block is better than beside each layer",
        _both("hydralora-blocks", "hydralora"),
    ),
    Claim(
        "2603.01526", "mtLoRA's other parts add little to its placement", _both("mtlora", "hydralora-blocks", "no gain")
    ),
    Claim(
        "2312.09979",
        "LoRAMoE keeps more of what the base knew than LoRA",
        (Test("loramoe", "lora", "apart", measure="forgetting", lower=True),),
    ),
)


def tests() -> list[Test]:
    """Every planned test; for how many there are, p-values are corrected."""
    return [test for claim in CLAIMS for test in claim.tests]


def expected_seconds(
    stage: Stage, budget: Budget, searched: Container[str], measured: float | None = None, first: bool = False
) -> float:
    """How long a stage may take.

    Args:
        stage: of the plan.
        budget: its runs' length.
        searched: methods whose learning rate has been chosen.
        measured: seconds of one run, scoring included, where some have been made.
        first: whether the untouched base has to be scored too.
    """
    run = measured or budget.steps * budget.step_seconds + budget.evaluation_seconds
    training = max(run - budget.evaluation_seconds, run / 2)
    searches = sum(method not in searched for method in stage.methods)
    return len(stage.methods) * run + searches * (len(RATES) - 1) * training + first * budget.evaluation_seconds
