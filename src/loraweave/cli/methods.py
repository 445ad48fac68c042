"""`loraweave methods`: what there is to choose from."""

from rich.table import Table
from rich.text import Text

from loraweave.cli.output import console


def methods() -> None:
    """List the methods: paper, what they need and what they can be turned into."""
    from loraweave.config import WeaveConfig
    from loraweave.runs.methods import METHODS, choose_method

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("name", "arXiv", "needs tasks", "folds into a LoRA", "learning rate", "what it is"):
        table.add_column(head, justify="right" if head == "learning rate" else "left", no_wrap=head != "what it is")
    for method in METHODS.values():
        config = choose_method(method.name).peft_config(["task"])
        needs, folds = "–", "–"
        if config is not None:
            needs = "in training" if "alignment" in method.losses else "no"
            folds = "no, but merges" if getattr(config, "use_dora", False) else "is one"
        if isinstance(config, WeaveConfig):
            needs = "yes" if config.needs_tasks else "no"
            folds = "no: depends on x" if config.depends_on_input else "for each task" if config.needs_tasks else "yes"
        rate = f"{method.learning_rate:g}" if method.learning_rate else "–"
        name, _, rest = method.description.partition(": ")
        table.add_row(
            Text(method.name, style="bold"),
            method.paper or "–",
            needs,
            folds,
            rate,
            f"{name}: {rest}" if rest else name,
        )
    console.print(table)
    console.print("Learning rates are for a hidden size of 2,048 and grow in inverse proportion below it.", style="dim")
