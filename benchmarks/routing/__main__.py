"""`python -m routing`: where prompts go at every threshold of the routing by description, to results/routing.

The rule by which `loraweave.experts.routing.THRESHOLD` is chosen, written down before the first measurement:

    of the thresholds 0, 0.05 … 0.7 the one with the highest balanced accuracy (the mean of the share of own prompts
    that go to their own expert and of the share of strangers that go to the base), the lowest of several, in the
    library `both`, the tasks of the quickstart and the six of the study's regime `apart`, whose experts have five
    training prompts each as examples and no description, as `loraweave experts train` makes them.

What else is measured is shown, and chooses nothing: each half of that library; experts that are described in a
sentence, with and without examples, or have twenty examples; and `shared`, where six questions are asked about the same
texts, so that a stranger's prompt differs from an own one in its last words alone.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from study.data import make_data
from study.place import REPOSITORY

import loraweave
from loraweave.errors import UserError
from loraweave.experts.routing import default_embedding
from loraweave.experts.train import examples_of
from loraweave.files import make_folder, write_json
from loraweave.quiet import quiet_libraries
from loraweave.runs.config import RunConfig
from loraweave.runs.folder import environment
from loraweave.tasks import Task
from routing.counting import THRESHOLDS, Asked, Line, Remembered, best, expert

OUTPUT = REPOSITORY / "benchmarks" / "results" / "routing" / "routing.json"
QUICKSTART = Path(loraweave.__file__).parent / "quickstart" / "run.yaml"
STUDY = REPOSITORY / "benchmarks" / "study"
CHOOSES = ("both", "examples")
"""The library and what is said of its experts by which the threshold is chosen."""
SAID = ("examples", "twenty examples", "description", "description and examples")
TWENTY = 20

DESCRIPTIONS = {
    "topic": "the topic of a short text",
    "date": "writing a date in ISO form",
    "commands": "turning a command in words into a list of actions",
    "quote": "the words that are quoted in a text",
    "larger": "which of two numbers is larger",
    "record": "turning a sentence about a person into a JSON record",
    "backwards": "writing words in the opposite order",
    "trec": "what kind of answer a question asks for",
    "inflect_en": "the form of an English word that is wanted",
    "wikisql": "turning a question about a table into SQL",
    "mawps": "turning an arithmetic word problem into an equation",
    "arc_easy": "choosing the right answer to a question of school science",
    "rte": "whether a sentence follows from a text",
    "kind": "what kind of text something is: review, news, message, question, command or sentence",
    "sentiment": "whether a text is positive, negative or neutral",
    "language": "the language of a text",
    "length": "how long a text is",
    "first": "the first word of a text",
    "last": "the last word of a text",
}
"""Of each task, what a person would say of it."""


def libraries(data: Path | None) -> dict[str, list[Task]]:
    """The tasks of each library; `data`: the folder that `make_data` made, or None where the sets are not there."""
    found = {"quickstart": RunConfig.load(QUICKSTART).load_tasks()}
    if data is not None:
        for regime in ("apart", "shared"):
            found[regime] = RunConfig.load(STUDY / f"{regime}.yaml", [f"data_dir={data / regime}"]).load_tasks()
        found["both"] = [*found["quickstart"], *found["apart"]]
    return found


def measured(tasks: Sequence[Task], limit: int, embed: Remembered) -> dict[str, Asked]:
    """Where a library's prompts went, by what is said of its experts."""
    prompts = {task.name: [example.prompt for example in task.test_examples()[:limit]] for task in tasks}
    five = {task.name: examples_of(task) for task in tasks}
    twenty = {task.name: examples_of(task, TWENTY) for task in tasks}
    found = {}
    for said in SAID:
        examples = {} if said == "description" else twenty if "twenty" in said else five
        experts = [
            expert(name, DESCRIPTIONS[name] if "description" in said else "", examples.get(name, ()))
            for name in prompts
        ]
        found[said] = Asked.of(experts, prompts, embed)
    return found


def table(lines: Sequence[Line]) -> str:
    """Lines in Markdown."""
    rows = ["| threshold | own: right | wrong | base | strangers let in | balanced |", "| --- |" + " --- |" * 5]
    for line in lines:
        rows.append(
            "| " + " | ".join([f"{line.threshold:.2f}", *(f"{share:.1f}" for share in astuple(line)[1:])]) + " |"
        )
    return "\n".join(rows)


def main() -> None:
    """Measure every library, print the tables, and say which threshold the rule takes."""
    parser = argparse.ArgumentParser(description="where prompts go at every threshold; the rule is in the script")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data", help="the public sets")
    parser.add_argument("--limit", type=int, default=200, help="held-out prompts of each task")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    embed = Remembered(default_embedding())
    results: dict[str, Any] = {"limit": given.limit, "environment": environment(0), "libraries": {}}
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        data: Path | None = Path(folder)
        try:
            make_data(given.data, Path(folder))
        except UserError as error:
            print(f"the quickstart's tasks alone, by which nothing is chosen: {error}")
            data = None
        for name, tasks in libraries(data).items():
            lines = results["libraries"][name] = {}
            for said, asked in measured(tasks, given.limit, embed).items():
                found = [asked.line(threshold) for threshold in THRESHOLDS]
                lines[said] = [asdict(line) for line in found]
                print(f"\n{name}, {len(tasks)} tasks, {said}\n\n{table(found)}", flush=True)
                if (name, said) == CHOOSES:
                    results["chosen"] = best(found)
                    results["tasks"] = asked.by_task(best(found))
    print(f"\nchosen: {results.get('chosen')}")
    make_folder(given.output.parent)
    write_json(given.output, results, indent=1)


if __name__ == "__main__":
    main()
