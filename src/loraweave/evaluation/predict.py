"""Answers to new rows, found as an evaluation finds them: labels ranked by likelihood, or text with the task's stop
rules; the requests are lm-eval's own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from datasets import Dataset
from jinja2 import TemplateError
from lm_eval.api.instance import Instance

from loraweave.errors import UserError
from loraweave.evaluation.lm import LoadedModel
from loraweave.evaluation.samples import chosen, named_metrics
from loraweave.tasks.chat import Tools
from loraweave.tasks.examples import Prompt
from loraweave.tasks.sandbox import reason_of
from loraweave.tasks.task import Task
from loraweave.tasks.template import apply_template

Prediction = dict[str, Any]
"""`prediction`, and `scores` where labels were ranked: each label's log-probability in nats. The task's metric says by
what of it: `acc_norm`, for one, takes the likeliest by character."""


def predict_rows(lm: LoadedModel, task: Task, rows: Sequence[Mapping[str, Any]], first: int = 1) -> list[Prediction]:
    """A prediction for every row.

    Args:
        lm: with a model that has been told the task.
        task: what is asked. An lm-eval task reads the columns that its templates name; one of data the columns that
            it was trained on, or those of the lm-eval task that scores it.
        rows: without answers; any that are there are not looked at.
        first: the first row's number.

    Raises:
        UserError: a row lacks what the task's templates read; the row's number is named.
    """
    if not rows:
        return []
    places = [f"row {number}" for number in range(first, first + len(rows))]
    asked = [task.question(row, place) for row, place in zip(rows, places, strict=True)]
    if task.lm_eval is None or any(question is not None for question in asked):
        if None in asked:
            raise UserError(f"{places[asked.index(None)]}: lacks the columns by which other rows ask")
        prompts: Any = asked
        tools = [task.tools(row, place) for row, place in zip(rows, places, strict=True)]
        return [{"prediction": text} for text in write_answers(lm, prompts, tools=tools)]
    lm.begin(task.chat_template, task.thinks and task.lm_eval.OUTPUT_TYPE == "generate_until")
    docs = [task.document(row, place) for row, place in zip(rows, places, strict=True)]
    requests = _requests(task, docs, lm, first)
    kinds = {request.request_type for each in requests for request in each}
    if kinds == {"generate_until"}:
        return _generated(lm, task, [each[0] for each in requests])
    if kinds == {"loglikelihood"} and task.lm_eval.OUTPUT_TYPE == "multiple_choice":
        return _ranked(lm, task, requests)
    raise UserError(f"task {task.name!r}: a {task.lm_eval.OUTPUT_TYPE} task has nothing to predict, only to score")


def are_chats(prompts: Sequence[Prompt]) -> bool:
    """Whether prompts are chats, and not texts.

    Raises:
        UserError: some are, and others not.
    """
    chats = [not isinstance(prompt, str) for prompt in prompts]
    if any(chats) and not all(chats):
        raise UserError("prompts are texts or chats, and here are both: ask for one kind at a time")
    return any(chats)


def write_answers(
    lm: LoadedModel,
    prompts: Sequence[Prompt],
    max_new_tokens: int | None = None,
    tools: Sequence[Tools] | None = None,
) -> list[str]:
    """What a model writes after each prompt, greedily, up to the end of its turn or of the text.

    Args:
        lm: with a model that has been told its task.
        prompts: texts, or chats, not both.
        max_new_tokens: at most; as an evaluation when None.
        tools: for each prompt, the functions that its chat may call.

    Raises:
        UserError: texts and chats at once, chats and a tokenizer without a template, or more tokens than the model
            reads.
    """
    lm.begin(are_chats(prompts))
    called = tools or [None] * len(prompts)
    texts = [
        p if isinstance(p, str) else apply_template(lm.tokenizer, p, True, its)
        for p, its in zip(prompts, called, strict=True)
    ]
    longest = max_new_tokens or lm.max_gen_toks
    if longest >= lm.max_length:
        raise UserError(
            f"max_new_tokens is {longest:,}, and the model reads {lm.max_length:,} tokens, prompt and answer together"
        )
    how = {"until": [], "do_sample": False, "max_gen_toks": longest}
    requests = [Instance("generate_until", {}, (text, dict(how)), number) for number, text in enumerate(texts)]
    return lm.generate_until(requests)


def _requests(task: Task, rows: Sequence[Mapping[str, Any]], lm: LoadedModel, first: int) -> list[list[Instance]]:
    """What lm-eval asks about each row."""
    harness, chat = task.lm_eval, task.chat_template
    template = lm.apply_chat_template if chat else None
    found = []
    for number, row in enumerate(rows):
        try:
            doc = _document(harness, row)
            with _without_an_answer(harness):
                context = harness.fewshot_context(
                    doc,
                    num_fewshot=0,
                    apply_chat_template=chat,
                    fewshot_as_multiturn=chat,
                    chat_template=template,
                    gen_prefix=harness.doc_to_prefix(doc),
                )
                asked = harness.construct_requests(
                    doc,
                    context,
                    apply_chat_template=chat,
                    chat_template=template,
                    metadata=(task.name, number, 1),
                    doc_id=number,
                )
        except UserError as error:
            raise UserError(f"row {number + first}: {error}") from error
        except (TemplateError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"row {number + first}: the templates of the task {task.name!r} fail: {reason_of(error)}"
            ) from error
        found.append(asked if isinstance(asked, list) else [asked])
    return found


def _document(harness: Any, row: Mapping[str, Any]) -> Any:
    """What the templates see of a row: it goes through the task's `process_docs` by itself, for that may leave rows out
    or put them into another order."""
    process = getattr(harness.config, "process_docs", None)
    if process is None:
        return dict(row)
    made = list(process(Dataset.from_list([dict(row)])))
    if len(made) != 1:
        raise UserError(f"process_docs makes {len(made)} documents of it, where one is to be answered")
    return made[0]


@contextmanager
def _without_an_answer(harness: Any) -> Iterator[None]:
    """Inside it a row needs no answer: lm-eval asks for it while it builds a prompt, and does not put it there."""
    of_row = harness.doc_to_target

    def answer(doc: Any, *args: Any) -> Any:
        try:
            return of_row(doc, *args)
        except (TemplateError, LookupError, TypeError, ValueError):
            if harness.multiple_input:  # the answer is what all the questions lead to
                raise
            return ""

    harness.doc_to_target = answer
    try:
        yield
    finally:
        del harness.doc_to_target


def _generated(lm: LoadedModel, task: Task, requests: list[Instance]) -> list[Prediction]:
    for request, text in zip(requests, lm.generate_until(requests), strict=True):
        request.resps = [text]
    filters = task.lm_eval._filters
    if not filters:
        return [{"prediction": request.resps[0]} for request in requests]
    filters[0].apply(requests)
    return [{"prediction": request.filtered_resps[filters[0].name]} for request in requests]


def _ranked(lm: LoadedModel, task: Task, requests: list[list[Instance]]) -> list[Prediction]:
    flat = [request for each in requests for request in each]
    scores = iter(lm.loglikelihood(flat))
    metric = next(iter(named_metrics(task.lm_eval)), "acc")
    found = []
    for asked in requests:
        likelihoods = [next(scores)[0] for _ in asked]
        labels = [str(choice) for choice in task.lm_eval.doc_to_choice(asked[0].doc)]
        best = chosen(labels, likelihoods, metric)
        found.append({"prediction": labels[best], "scores": dict(zip(labels, likelihoods, strict=False))})
    return found
