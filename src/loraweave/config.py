"""`WeaveConfig`: every knob of the family, free to combine; and one preset per paper.

A preset is the same class with other defaults. In `adapter_config.json` all have `peft_type: LORAWEAVE` and
`method: <name>`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from peft.config import PeftConfig

from loraweave.card import add_loading_section
from loraweave.config_checks import Down, Gate, RouterInput, Start, Up, check_combination, check_values
from loraweave.peft_type import LORAWEAVE


@dataclass
class WeaveConfig(PeftConfig):
    """Low-rank adaptation with several heads: y = W x + s · Σ_h g_h ⊙ B_h · D_h(Λ_t · A_a(h) x) − s · B̄₀ A₀ x.

    The defaults are a plain LoRA on all linear layers. Fields that PEFT's LoraConfig has mean the same here.

    Args:
        r: rank of one head.
        lora_alpha: numerator of the scaling s = lora_alpha / r.
        use_rslora: s = lora_alpha / sqrt(r) instead.
        lora_dropout: probability of dropout, on x, or on A x with `head_dropout`.
        target_modules: list of name endings, a regular expression, or "all-linear".
        exclude_modules: the same, for layers to leave out.
        rank_pattern: {layer name or regular expression: r} for single layers.
        alpha_pattern: {layer name or regular expression: lora_alpha}, the numerator for single layers.
        layers_to_transform: adapt only the layers of these indices.
        layers_pattern: the name of the list of layers that the indices count in, where it is no common one.
        modules_to_save: further modules that are trained whole and saved with the adapter.
        bias: "none", "all" or "weave_only": which biases are trained.
        init_weights: False starts from a random, non-identity update (for tests).
        method: the preset's name; a label, it chooses nothing.
        num_heads: N.
        down: one A "shared" by the heads, or one "per_head".
        gate: the weight of each head. "uniform": 1/N. "channel": a learned number per head and output channel.
            "token": softmax of a router on x. "task": softmax(w_t / temperature). "task_embedding": softmax(G e_t).
            "own": head h is task h's, 1 for the token's own task and 0 for the others; `num_heads` is the number of
            tasks, and need not be said.
        top_k: only the k heads with the highest logits speak, with a softmax over those; for gates "token", "task" and
            "task_embedding". With 1 the gate's own weights get no gradient: the softmax of one logit is always 1.
        num_heads_pattern: {layer name or regular expression: N} for single layers, as `rank_pattern` (MoLA).
        gate_groups: G, a softmax over heads for each of G groups of neighbouring output channels, for gate "token"
            (mtLoRA's fine-grained routing).
        router_input: what the router reads: "x", or "rank", which is A x (after dropout on x).
        head_dropout: one mask per head on A x, instead of one on x.
        task_transform: a matrix per task between A and B, that starts at the identity: True or "full", r × r; or
            "diagonal".
        train_down: False leaves A at its random start (LoRI).
        heads_by_depth: the N of equal parts of the model's depth, from the first blocks to the last (MoLA): when the
            adapter is put on a model they become entries of `num_heads_pattern`.
        up: one B "per_head", or one "shared": head h is then a matrix M_h, r × r, between A and B (CoMoL).
        up_density: the share of each B_h's entries that is trained, the others stay 0 (LoRI). Which ones is drawn at
            random, or chosen from a trained adapter by `loraweave.sparsify`.
        block_size: [d_in, d_out] of the target modules that are whole blocks and not linear layers, where what their
            first and last linear layer say does not hold.
        beside_blocks: whether any target module is a whole block; said when the adapter is put on a model.
        start: "zero_up", "zero_gate" or "random_anchored"; see `loraweave.lowrank.starts`.
        task_names: the tasks in the order of their ids; needed by task gates and transforms.
        temperature: τ of the task gate.
        task_embedding_dim: size of e_t for gate "task_embedding".

    Raises:
        UserError: a value out of range, or knobs that do not go together, with what is possible.
    """

    r: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.0
    target_modules: list[str] | str | None = "all-linear"
    exclude_modules: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    bias: str = "none"
    use_rslora: bool = False
    init_weights: bool = True
    method: str = "weave"
    num_heads: int = 1
    down: Down = "shared"
    gate: Gate = "uniform"
    head_dropout: bool = False
    task_transform: bool | Literal["full", "diagonal"] = False
    start: Start = "zero_up"
    task_names: list[str] | None = None
    temperature: float = 1.0
    task_embedding_dim: int = 64
    top_k: int | None = None
    num_heads_pattern: dict[str, int] = field(default_factory=dict)
    gate_groups: int = 1
    router_input: RouterInput = "x"
    train_down: bool = True
    heads_by_depth: list[int] | None = None
    up: Up = "per_head"
    up_density: float = 1.0
    block_size: list[int] | None = None
    beside_blocks: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = LORAWEAVE
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if isinstance(value, (list, tuple)):
                setattr(self, name, set(value))
        if self.task_transform == "full":
            self.task_transform = True
        if self.gate == "own" and self.num_heads == 1 and self.task_names:
            self.num_heads = len(self.task_names)
        check_values(self)
        check_combination(self)

    @property
    def needs_tasks(self) -> bool:
        """Whether the forward pass needs to know each token's task."""
        return self.has_task_gate or self.gate == "own" or bool(self.task_transform)

    @property
    def has_task_gate(self) -> bool:
        """Whether the heads are weighed task by task."""
        return self.gate in ("task", "task_embedding")

    @property
    def most_heads(self) -> int:
        """The largest N of any layer."""
        return max(self.num_heads, *self.num_heads_pattern.values(), *(self.heads_by_depth or ()), 1)

    @property
    def depends_on_input(self) -> bool:
        """Whether the update depends on x, so that it cannot be folded into weights."""
        return self.gate == "token" and self.most_heads > 1

    @property
    def heads_stay_alike(self) -> bool:
        """Whether all heads start alike and get the same gradient for ever, so that they are worth one."""
        shared = self.gate == "uniform" and (self.down, self.up) == ("shared", "per_head") and self.up_density == 1
        masked = self.head_dropout and self.lora_dropout > 0
        return shared and self.start == "zero_up" and self.init_weights and not masked and self.most_heads > 1

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """PEFT's, and the model card beside it learns how the adapter is loaded."""
        super().save_pretrained(save_directory, **kwargs)
        self.complete_card(Path(save_directory))

    def complete_card(self, folder: Path) -> None:
        """Say in the card of the adapter saved in `folder` how it is loaded (`loraweave.card`)."""
        base = self.base_model_name_or_path or "THE BASE MODEL"
        add_loading_section(folder, self.method, base, self.task_names if self.needs_tasks else None, self.revision)


@dataclass
class MultiLoraConfig(WeaveConfig):
    """MultiLoRA (2311.11501): parallel LoRA modules, each with a learned scale per output channel, zero at first."""

    method: str = "multilora"
    num_heads: int = 3
    down: Down = "per_head"
    gate: Gate = "channel"
    start: Start = "zero_gate"
    lora_dropout: float = 0.05


@dataclass
class HydraLoraConfig(WeaveConfig):
    """HydraLoRA (2404.19245): one A, several B mixed per token by a router on x."""

    method: str = "hydralora"
    r: int = 4
    lora_alpha: float = 32
    num_heads: int = 4
    gate: Gate = "token"
    lora_dropout: float = 0.05


@dataclass
class RLoraConfig(WeaveConfig):
    """R-LoRA (2502.15455): HydraLoRA with a random start and a dropout mask per head, so that heads differ."""

    method: str = "rlora"
    r: int = 4
    lora_alpha: float = 32
    use_rslora: bool = True
    num_heads: int = 5
    gate: Gate = "token"
    head_dropout: bool = True
    lora_dropout: float = 0.2
    start: Start = "random_anchored"


@dataclass
class MLoraConfig(RLoraConfig):
    """M-LoRA (2508.05078): R-LoRA without its router; the heads are averaged."""

    method: str = "mlora"
    gate: Gate = "uniform"


@dataclass
class MtlLoraConfig(WeaveConfig):
    """MTL-LoRA (2410.09437): one A, a transform of A x per task, several B mixed by a learned softmax per task."""

    method: str = "mtllora"
    num_heads: int = 3
    gate: Gate = "task"
    task_transform: bool = True
    temperature: float = 0.1
    lora_dropout: float = 0.05


@dataclass
class MoeLoraConfig(WeaveConfig):
    """MoE-LoRA (2310.18339): experts with an A and a B of their own, mixed by a gate on a task embedding."""

    method: str = "moelora"
    r: int = 2
    lora_alpha: float = 4
    num_heads: int = 8
    down: Down = "per_head"
    gate: Gate = "task_embedding"
    lora_dropout: float = 0.1


@dataclass
class OwnLoraConfig(WeaveConfig):
    """One LoRA per task, trained together in one adapter: each token passes through its own task's head alone.

    CORAL's experts (2603.09298) trained in mixed batches, and what any sharing between tasks has to be better than.
    """

    method: str = "own"
    down: Down = "per_head"
    gate: Gate = "own"
    lora_dropout: float = 0.05


@dataclass
class LoraMoeConfig(WeaveConfig):
    """LoRAMoE (2312.09979): experts with an A and a B of their own, mixed per token by a router on x."""

    method: str = "loramoe"
    r: int = 4
    lora_alpha: float = 32
    num_heads: int = 8
    down: Down = "per_head"
    gate: Gate = "token"
    lora_dropout: float = 0.05


@dataclass
class MolaConfig(LoraMoeConfig):
    """MoLA (2402.08562): experts as in LoRAMoE, the best two of each token, more of them in higher layers."""

    method: str = "mola"
    r: int = 8
    lora_alpha: float = 16
    top_k: int | None = 2
    heads_by_depth: list[int] | None = field(default_factory=lambda: [2, 4, 6, 8])


@dataclass
class SmoraConfig(LoraMoeConfig):
    """SMoRA (2501.15103): every rank is an expert, and each token takes the best quarter of them."""

    method: str = "smora"
    r: int = 1
    lora_alpha: float = 2
    num_heads: int = 64
    top_k: int | None = 16


@dataclass
class MtLoraConfig(WeaveConfig):
    """mtLoRA (2603.01526): HydraLoRA with a softmax per group of output channels, beside whole blocks."""

    method: str = "mtlora"
    r: int = 16
    lora_alpha: float = 64
    num_heads: int = 16
    gate: Gate = "token"
    gate_groups: int = 2
    target_modules: list[str] | str | None = field(default_factory=lambda: ["mlp"])
    lora_dropout: float = 0.05


@dataclass
class LoriConfig(OwnLoraConfig):
    """LoRI (2504.07448): one A for all tasks, frozen at its random start, and a B per task, sparse if wanted."""

    method: str = "lori"
    r: int = 32
    lora_alpha: float = 64
    down: Down = "shared"
    train_down: bool = False


@dataclass
class ComolConfig(WeaveConfig):
    """CoMoL (2603.00573): one A and one B, with r × r matrices between them that a router on A x mixes."""

    method: str = "comol"
    num_heads: int = 4
    gate: Gate = "token"
    router_input: RouterInput = "rank"
    up: Up = "shared"
    lora_dropout: float = 0.05


PRESETS: dict[str, type[WeaveConfig]] = {
    config.method: config
    for config in (
        MultiLoraConfig,
        HydraLoraConfig,
        RLoraConfig,
        MLoraConfig,
        MtlLoraConfig,
        MoeLoraConfig,
        OwnLoraConfig,
        LoraMoeConfig,
        MolaConfig,
        SmoraConfig,
        MtLoraConfig,
        LoriConfig,
        ComolConfig,
    )
}
