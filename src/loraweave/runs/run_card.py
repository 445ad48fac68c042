"""What a run adds to its adapter's card: each task with an example, where its data is from, scores, the way out."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loraweave.files import write_text
from loraweave.runs.outlook import Outlook
from loraweave.tasks import Task

LONGEST = 300
"""Characters that are shown of a prompt or an answer."""

SCORES, END = "<!-- scores -->", "<!-- end of the scores -->"
WORDS = {
    "evaluate": "score it",
    "talk": "talk to it",
    "lora": "a plain LoRA{each} for PEFT, vLLM and others",
    "merged": "full weights{each}",
    "serve": "a server for it",
}
EVERYWHERE = """\
Programs that never import `loraweave` load it too: `loraweave run -- lm_eval ...` starts one so, and with the package
`loraweave-autoload` installed every program does."""


def add_run_section(folder: Path, tasks: Sequence[Task], after: Outlook) -> None:
    """Add what a run knows to the card of the adapter in a folder; nothing where there is no card.

    Args:
        folder: of the adapter, just saved.
        tasks: of the run, in the order of their ids.
        after: what can be done with it.
    """
    card = folder / "README.md"
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8").rstrip()
    parts = [text, "## Tasks\n", *(_of_task(task) for task in tasks)]
    write_text(card, "\n".join([*parts, f"{SCORES}\n{END}\n", _way_out(after, [task.name for task in tasks])]))


def write_scores(folder: Path, scores: Mapping[str, Mapping[str, Any]]) -> None:
    """Put scores into the card of the adapter in a folder, in the place of older ones of the same tasks."""
    card = folder / "README.md"
    text = card.read_bytes().decode("utf-8", "ignore") if card.is_file() else ""
    before, _, rest = text.partition(SCORES)
    old, end, after = rest.partition(END)
    if not end:  # a card of somebody's own
        return
    rows = dict(re.findall(r"^\| `(.+?)` (\|.*)$", old, flags=re.MULTILINE))
    for name, score in scores.items():
        rows[name] = f"| {score['score']:.4g} {score['unit']} | {score['metric']} | {score['n']:,} |"
    table = ["| task | score | metric | examples |", "| --- | --- | --- | --- |"]
    table += [f"| `{name}` {row}" for name, row in rows.items()]
    write_text(card, f"{before}{SCORES}\n## Scores\n\n" + "\n".join(table) + f"\n{END}{after}")


def _way_out(after: Outlook, tasks: Sequence[str]) -> str:
    """What to type next, as it is for this method."""
    each = " for each task" if after.by_task else " for one task" if after.averaged else ""
    said = [(WORDS[word].format(each=each), command) for word, command in after.commands("FOLDER", tasks)]
    if "merged" in after.exports and "lora" in after.exports:
        gguf = "loraweave export FOLDER --to gguf --output FOLDER-gguf"
        said.append(("for llama.cpp, of a base that is shaped like Llama, Qwen or Gemma", gguf))
    width = max(len(command) for _, command in said)
    lines = ["## Using and exporting it\n", *(f"    {command:{width}}  {word}" for word, command in said), ""]
    lines += [f"{after.why}\n"] if after.why else []
    return "\n".join([*lines, EVERYWHERE]) + "\n"


def _of_task(task: Task) -> str:
    """A task's name, source and first example."""
    example = next(iter(task.training_examples()), None)
    origin = Path(task.origin).name if "/" in task.origin else task.origin
    lines = [f"### {task.name}\n", f"From {origin}.\n"]
    if (licence := _licence(task)) is not None:
        lines.append(f"Licence of the data: {licence}.\n")
    if example is not None:
        lines.append(f"{_block('prompt', _shown(example.prompt))}\n{_block('answer', _shown(example.completion))}")
    return "\n".join(lines)


def _licence(task: Task) -> str | None:
    """Of the data, where the data set says it."""
    dataset = getattr(task.lm_eval, "dataset", None)
    infos = [getattr(each, "info", None) for each in dataset.values()] if isinstance(dataset, Mapping) else []
    return next((str(info.license) for info in infos if info is not None and info.license), None)


def _shown(said: Any) -> str:
    text = said if isinstance(said, str) else "\n".join(f"{each['role']}: {each.get('content')}" for each in said)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _block(what: str, text: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{what}:\n\n{fence}text\n{text}\n{fence}\n"
