"""Whether evaluation finds the answers right that training teaches: often a space before them is all that is wrong."""

from itertools import islice
from typing import Any

from loraweave.tasks import Task
from loraweave.tasks.harness_task import HarnessTask
from loraweave.tasks.prompts import example_from

LOOKED_AT = 8
"""How many of the test examples tell: what is wrong here is wrong everywhere."""


def taught_in_vain(task: Task) -> str:
    """What to say where `exact_match` finds none of the very answers right that training teaches; else an empty text.

    The first test examples are answered as it is taught; filters and scores are lm-eval's.
    """
    evaluated = task.lm_eval
    if not isinstance(task, HarnessTask) or evaluated.OUTPUT_TYPE != "generate_until":
        return ""
    if evaluated.config.process_results is not None or list(evaluated._metric_fn_list) != ["exact_match"]:
        return ""
    taught = {}
    for number, doc in enumerate(islice(evaluated.eval_docs, LOOKED_AT), 1):
        example = example_from(evaluated, doc, task.chat_template, f"task {task.name!r}, test document {number}")
        taught[str(example.completion)] = doc
    if any(_found_right(evaluated, doc, answer) for answer, doc in taught.items()):
        return ""
    cure = "see its filter_list and doc_to_target"
    if all(_found_right(evaluated, doc, answer.strip()) for answer, doc in taught.items()):
        cure = "take the space away with a filter (remove_whitespace, then take_first) or with `target_delimiter: ''`"
    return f"{task.name}: exact_match finds the right answers wrong as they are learned, {next(iter(taught))!r}: {cure}"


def _found_right(evaluated: Any, doc: Any, answer: str) -> bool:
    """Whether lm-eval's first filter and `exact_match` take this for the right answer to a document."""
    from lm_eval.api.instance import Instance

    instance = Instance("generate_until", doc, ("", {}), 0)
    instance.resps = [answer]
    pipeline = evaluated._filters[0]
    try:
        pipeline.apply([instance])
        return bool(evaluated.process_results(doc, [instance.filtered_resps[pipeline.name]])["exact_match"])
    except Exception:  # a document that cannot be scored is told when it is
        return True
