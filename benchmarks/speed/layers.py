"""One layer: every method against PEFT's LoRA of the same total rank, the frozen layer alone and loops over heads."""

from collections.abc import Mapping
from typing import Any

from .memory import peak_bytes
from .subjects import Step, layer_steps
from .timing import in_turn, ratios

# d_in, d_out, batch, tokens: nano's, a 0.5B model's and a 7B model's layers, short and long.
SHAPES = {
    "nano 256 → 256, 8 × 64": (256, 256, 8, 64),
    "nano 256 → 704, 8 × 256": (256, 704, 8, 256),
    "0.5B 896 → 896, 8 × 128": (896, 896, 8, 128),
    "0.5B 896 → 4864, 1 × 512": (896, 4864, 1, 512),
    "7B 1024 → 4096, 4 × 128": (1024, 4096, 4, 128),
    "7B 4096 → 4096, 2 × 128": (4096, 4096, 2, 128),
}
LONG_SHAPES = {
    "0.5B 896 → 896, 8 × 512": (896, 896, 8, 512),
    "0.5B 896 → 4864, 8 × 512": (896, 4864, 8, 512),
    "7B 4096 → 4096, 4 × 512": (4096, 4096, 4, 512),
    "7B 4096 → 11008, 4 × 1024": (4096, 11008, 4, 1024),
}
ON_X = ("multilora", "hydralora", "mtllora", "moelora")
ON_HEADS = ("rlora", "mlora")
RANK, HEADS = 32, 4


def compare_layers(
    rounds: int = 9, shapes: Mapping[str, tuple[int, int, int, int]] = SHAPES, **where: Any
) -> list[dict[str, Any]]:
    """A row per shape: the ratio of each subject's step to the step of PEFT's LoRA with dropout 0.05.

    Methods with dropout on x run at 0.05 and at 0; methods with head dropout at 0.2, 0.05 and 0. LoRA runs at each of
    these, for ratios at the same dropout. `where`: device, dtype, autocast.
    """
    names = ["frozen", "lora@0.05", "lora@0", "lora@0.2", "poly"]
    names += [f"{name}@{p}" for name in ON_X for p in ("0.05", "0")]
    names += [f"{name}@{p}" for name in ON_HEADS for p in ("0.2", "0.05", "0")]
    names += ["loop-rlora@0.2", "loop-hydralora@0.05", "loop-multilora@0.05"]
    rows = []
    for label, (d_in, d_out, batch, tokens) in shapes.items():
        steps = layer_steps(d_in, d_out, batch, tokens, RANK, HEADS, names, **where)
        times = in_turn(steps, rounds)
        row: dict[str, Any] = {"shape": label, "rank": RANK, "heads": HEADS, "to_lora@0.05": ratios(times, "lora@0.05")}
        for p in ("0", "0.2"):
            same = {name: seconds for name, seconds in times.items() if name.endswith(f"@{p}") or name == "frozen"}
            row[f"to_lora@{p}"] = ratios(same, f"lora@{p}")
        row["peak_bytes"] = {name: peak_bytes(step) for name, step in steps.items()}
        rows.append(row)
    return rows


def against_loops(
    rounds: int = 9, shapes: Mapping[str, tuple[int, int, int, int]] = SHAPES, **where: Any
) -> list[dict[str, Any]]:
    """Eight heads of rank 4: each method against its own published way, one head after another."""
    pairs = {"loop-rlora@0.2": "rlora@0.2", "loop-hydralora@0.05": "hydralora@0.05"}
    pairs |= {"loop-multilora@0.05": "multilora@0.05"}
    rows = []
    for label, (d_in, d_out, batch, tokens) in shapes.items():
        steps = layer_steps(d_in, d_out, batch, tokens, RANK, 8, [*pairs, *pairs.values()], **where)
        times = in_turn(steps, rounds)
        rows.append(
            {"shape": label}
            | {ours: ratios({loop: times[loop], ours: times[ours]}, loop)[ours] for loop, ours in pairs.items()}
        )
    return rows


def growth(rounds: int = 7, **where: Any) -> dict[str, list[dict[str, Any]]]:
    """How the cost of a step grows, on a layer 896 → 896 with 4 × 256 tokens and a total rank of 32.

    Returns:
        heads: at 1 to 32 heads, over one head. tasks: at 2 to 1,024 tasks, over two, with an id per sequence and an id
        per token. tokens: at 128 to 2,048 tokens, and rank: at 8 to 128, each over LoRA with dropout 0.05 there.
    """
    result: dict[str, list[dict[str, Any]]] = {"heads": [], "tasks": [], "tokens": [], "rank": []}
    drops = dict.fromkeys(ON_X, "0.05") | dict.fromkeys(ON_HEADS, "0.2")

    def one(d_in: int, d_out: int, batch: int, tokens: int, rank: int, heads: int, name: str, **more: Any) -> Step:
        return next(iter(layer_steps(d_in, d_out, batch, tokens, rank, heads, [name], **more, **where).values()))

    for method, p in drops.items():
        steps = {str(heads): one(896, 896, 4, 256, 32, heads, f"{method}@{p}") for heads in (1, 2, 4, 8, 16, 32)}
        result["heads"].append({"method": method, **ratios(in_turn(steps, rounds), "1")})
    for per_token in (False, True):
        for method in ("mtllora", "moelora"):
            steps = {
                str(k): one(896, 896, 4, 256, 32, 4, f"{method}@0.05", num_tasks=k, tasks_per_token=per_token)
                for k in (2, 8, 64, 1024)
            }
            label = f"{method}, an id per {'token' if per_token else 'sequence'}"
            result["tasks"].append({"method": label, **ratios(in_turn(steps, rounds), "2")})
    names = ["lora@0.05", "frozen", *(f"{method}@{p}" for method, p in drops.items())]
    for tokens in (128, 512, 2048):
        times = in_turn(layer_steps(896, 896, 1, tokens, 32, 4, names, **where), rounds)
        result["tokens"].append({"tokens": tokens, **ratios(times, "lora@0.05")})
    for rank in (8, 32, 128):
        times = in_turn(layer_steps(896, 896, 4, 256, rank, 4, names, **where), rounds)
        result["rank"].append({"rank": rank, **ratios(times, "lora@0.05")})
    return result


def family(
    rounds: int = 9, shapes: Mapping[str, tuple[int, int, int, int]] = SHAPES, **where: Any
) -> dict[str, list[dict[str, Any]]]:
    """What a head for every task and many small heads cost.

    Returns:
        own: on a layer 896 → 896 with 16 × 64 tokens and rank 8 for each task, a step at 2, 16 and 64 tasks over that
        at two, with an id per sequence and an id per token. sparse: a row per shape, 64 heads of rank 1 of which the
        best 16 speak, over LoRA of rank 64, both with dropout 0.05.
    """
    result: dict[str, list[dict[str, Any]]] = {"own": [], "sparse": []}
    for per_token in (False, True):
        steps = {}
        for tasks in (2, 16, 64):
            own = layer_steps(
                896, 896, 16, 64, 8 * tasks, tasks, ["own@0.05"], num_tasks=tasks, tasks_per_token=per_token, **where
            )
            steps[str(tasks)] = own["own@0.05"]
        label = f"an id per {'token' if per_token else 'sequence'}"
        result["own"].append({"ids": label, **ratios(in_turn(steps, rounds), "2")})
    for label, (d_in, d_out, batch, tokens) in shapes.items():
        steps = layer_steps(d_in, d_out, batch, tokens, 64, 64, ["lora@0.05", "smora@0.05"], **where)
        result["sparse"].append({"shape": label, **ratios(in_turn(steps, rounds), "lora@0.05")})
    return result
