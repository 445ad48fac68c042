"""`loraweave methods`: what there is to choose from."""

from rich.table import Table
from rich.text import Text

from loraweave.cli.output import console


def methods() -> None:
    """List the methods: paper, what they need and what they can be turned into."""
    from loraweave.config import WeaveConfig
    from loraweave.runs.methods import METHODS, choose_method
    from loraweave.runs.outlook import outlook

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    heads = ("name", "arXiv", "needs tasks", "a plain LoRA", "merges", "LoRA servers", "learning rate", "what it is")
    for head in heads:
        table.add_column(head, justify="right" if head == "learning rate" else "left", no_wrap=head != "what it is")
    for method in METHODS.values():
        config = choose_method(method.name).peft_config()
        needs = "–" if config is None else "in training" if "alignment" in method.losses else "no"
        if isinstance(config, WeaveConfig):
            needs = "yes" if config.needs_tasks else "no"
        after = outlook(choose_method(method.name))
        rate = f"{method.learning_rate:g}" if method.learning_rate else "–"
        name, _, rest = method.description.partition(": ")
        table.add_row(
            Text(method.name, style="bold"),
            method.paper or "–",
            needs,
            after.lora,
            after.merged,
            after.served,
            rate,
            f"{name}: {rest}" if rest else name,
        )
    console.print(table)
    notes = (
        "LoRA servers are vLLM, SGLang, TGI, llama.cpp and their like. `loraweave export` makes what they take, "
        "exactly, or where it says depends on x by averaging, at a cost that is measured. `loraweave serve` runs all.",
        "Learning rates are for a hidden size of 2,048 and grow in inverse proportion below it.",
    )
    for note in notes:
        console.print(note, style="dim", markup=False)
