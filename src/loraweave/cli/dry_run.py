"""What `loraweave train --dry-run` prints."""

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from loraweave import amounts
from loraweave.cli.output import console

if TYPE_CHECKING:
    from loraweave.estimate.dry_run import DryRun
    from loraweave.estimate.timing import Timing
    from loraweave.tasks import Task

_PARTS = {
    "base": "weights of the base",
    "adapter": "weights of the adapter",
    "gradients": "gradients, when most is held",
    "optimizer": "optimizer states",
    "activations": "kept for the backward pass",
    "working": "working memory",
    "exchange": "exchange between devices",
    "process": "process and allocator",
}


def show(run: "DryRun", timing: "Timing | None" = None) -> None:
    """Print all of it, with what some steps took where they were taken."""
    console.print(_overview(run))
    console.print()
    console.print(_tasks(run))
    console.print()
    console.print(_training(run))
    if run.memory or run.memory_unknown:
        console.print()
        console.print(_memory(run))
    if run.method.trains != "nothing":
        console.print()
        console.print(_after(run, timing))
    done = "nothing was trained" if timing is None else f"{timing.steps + 1} steps were taken, and thrown away"
    console.print(f"dry run: {done}, nothing was written", style="dim")


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def _overview(run: "DryRun") -> Table:
    grid = _grid()
    origin = ", sizes from the package: its configuration is not at hand" if run.shipped else ""
    grid.add_row("model", Text(f"{run.config.base}, {run.parameters:,} parameters{origin}"))
    paper = f" (arXiv {run.method.paper})" if run.method.paper else ""
    grid.add_row("method", Text(f"{run.method.name}{paper}", style="bold"))
    grid.add_row("", Text(", ".join(f"{name} {_value(value)}" for name, value in run.settings.items())))
    if run.layers:
        grid.add_row("adapted", Text(", ".join(f"{name} × {count}" for name, count in run.layers.items())))
    grid.add_row("trained", Text(f"{run.trainable:,} parameters, {run.trainable / run.parameters:.3%} of the model's"))
    taken = ": it holds something already, so a run would be refused without --resume" if run.taken else ""
    grid.add_row("output", Text(f"{run.folder}{taken}"))
    return grid


def _value(value: Any) -> str:
    if isinstance(value, (set, list, tuple)):
        return " ".join(sorted(map(str, value)))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tasks(run: "DryRun") -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for head in ("task", "data", "scored by", "prompts"):
        table.add_column(head, overflow="fold")
    heads = ["train", "valid.", "test", "share", *(["drawn", "tokens"] if run.realised else [])]
    some_cut = any(row["cut"] or row["dropped"] for row in run.realised)
    heads += ["cut", "left out"] if some_cut else []
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for number, outline in enumerate(run.tasks):
        share = run.shares[number]
        numbers = ["–"] * 3 if outline.task is None else [f"{size:,}" for size in outline.task.sizes.values()]
        numbers.append("–" if share is None else f"{share:.1%}")
        if run.realised:
            shown = ("drawn", "tokens", "cut", "dropped") if some_cut else ("drawn", "tokens")
            numbers += [f"{run.realised[number][key]:,}" for key in shown]  # type: ignore[literal-required]
        about = Text(outline.name, style="bold"), Text(outline.data), Text(outline.scored_by)
        table.add_row(*about, _rendered(outline.task), *numbers)
    return table


def _rendered(task: "Task | None") -> str:
    """How the prompts of a task are made."""
    if task is None:
        return "–"
    return "chat template" if task.chat_template else "plain"


def _after(run: "DryRun", timing: "Timing | None") -> Table:
    """How long it takes, and what comes after it."""
    grid = _grid()
    if timing is None:
        grid.add_row("time", "not measured; --measure takes a few steps on this machine")
    else:
        rate = f"{timing.tokens_per_second:,.0f} tokens/s in {timing.steps} steps here"
        grid.add_row("time", f"{amounts.duration(timing.seconds)} of training steps, at {rate}")
    grid.add_row(
        "afterwards", f"a plain LoRA: {run.after.lora}; merges: {run.after.merged}; LoRA servers: {run.after.served}"
    )
    if run.after.why:
        grid.add_row("", run.after.why)
    return grid


def _training(run: "DryRun") -> Table:
    args, train = run.args, run.config.train
    grid = _grid()
    if any(outline.task is None for outline in run.tasks):
        grid.add_row("data", "not at hand where there is no number: not counted; a run downloads them")
    grid.add_row("mixture", Text(_mixture(run)))
    for number, outline in enumerate(run.untrained):
        size = "not at hand" if outline.task is None else f"{outline.task.sizes['test']:,} examples"
        said = f"{outline.name}: {outline.scored_by}, {size}, {outline.data}"
        grid.add_row("" if number else "forgetting", Text(said))
    if run.realised and not any(row["cut"] or row["dropped"] for row in run.realised):
        grid.add_row("cut", "no prompt is cut, and no example left out")
    epochs = "" if args.max_steps > 0 else f"epochs: {train['num_train_epochs']:g}, "
    grid.add_row("length", Text(f"{epochs}steps: {f'{run.steps:,}' if run.steps else 'only the data can tell'}"))
    rows, micro, devices = args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size
    packed = "packed, " if train["packing"] else ""
    product = f"{rows} × micro-batches {micro} × devices {devices}"
    most = rows * micro * devices * args.max_length
    grid.add_row("step", Text(f"rows: {product}; {packed}up to {args.max_length:,} tokens each, {most:,} in all"))
    warmup = f"{args.warmup_steps:.0%} of the" if args.warmup_steps < 1 else f"{args.warmup_steps:g}"
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    rate = f"learning rate {args.learning_rate:g}, {schedule}, warm-up over {warmup} steps"
    grid.add_row("optimizer", Text(f"{_optim(run)}, {rate}"))
    return grid


def _optim(run: "DryRun") -> str:
    return str(getattr(run.args.optim, "value", run.args.optim))


def _mixture(run: "DryRun") -> str:
    mixture = run.config.mixture
    setting = {"temperature": mixture.temperature, "capped": mixture.cap}.get(mixture.strategy)
    total = f", {mixture.total:,} {mixture.by} an epoch" if mixture.total else ""
    return f"{mixture.strategy}{'' if setting is None else f' {setting:g}'}, by {mixture.by}{total}"


def _memory(run: "DryRun") -> Any:
    if run.memory_unknown:
        return Text(f"memory: cannot be estimated for this model ({run.memory_unknown})")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("memory per device, at most (an estimate)")
    for name in run.memory:
        table.add_column(name, justify="right")
    columns = run.memory.values()
    for part, label in _PARTS.items():
        values = [getattr(memory, part) for memory in columns]
        if part == "optimizer" and None in values:
            table.add_row(f"{label}: {_optim(run)} is not modelled", *["?"] * len(values))
        elif any(values):
            table.add_row(label, *map(amounts.memory, values))
    checkpointing = ", checkpointing" if run.args.gradient_checkpointing else ""
    table.add_row(
        f"a training step{checkpointing}", *(amounts.memory(memory.training) for memory in columns), style="bold"
    )
    if any(memory.forward for memory in columns):
        label = f"a validation batch of {run.args.per_device_eval_batch_size} rows"
        table.add_row(label, *(amounts.memory(memory.validation) for memory in columns), style="bold")
    return table
