"""From an lm-eval task and one of its documents to an example, with lm-eval's own methods.

The prompt is the context that lm-eval builds without solved examples, and the completion is what it would score: so
what is trained is what is evaluated, to the last space.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from loraweave.errors import UserError
from loraweave.tasks.examples import Example, Message
from loraweave.tasks.fields import check_task_document, used_fields
from loraweave.tasks.sandbox import reason_of


@dataclass(frozen=True)
class _Conversation:
    """What lm-eval would hand to the model's chat template."""

    messages: list[Message]
    open_turn: bool


def example_from(task: Any, doc: Any, chat: bool, place: str) -> Example:
    """The example of one document.

    Args:
        task: an lm-eval `ConfigurableTask`.
        chat: build messages for the tokenizer's template, as `lm_eval --apply_chat_template` does.
        place: where the document stands, for messages.

    Raises:
        UserError: the answer is empty or not among the choices, or the templates fail on this document.
    """
    if "config_source" in (task.config.metadata or {}):  # its author can mend it
        check_task_document(task.config, doc, place)
    try:
        if task.OUTPUT_TYPE == "loglikelihood_rolling":
            prompt, completion = "", task.doc_to_target(doc)
        else:
            context = task.fewshot_context(
                doc,
                num_fewshot=0,
                apply_chat_template=chat,
                fewshot_as_multiturn=True,
                chat_template=_capture if chat else None,
                gen_prefix=task.doc_to_prefix(doc),
            )
            if task.OUTPUT_TYPE == "generate_until":
                prompt, completion = context, next(iter(right_answers(task, doc, chat, place)), "")
            else:
                prompt, completion = _scored(task, doc, context, chat, place)
    except UserError:
        raise
    except Exception as error:  # templates and !function code are the user's: anything can come out of them
        raise UserError(f"{place}: the task's templates fail here: {reason_of(error)}") from error
    if not isinstance(completion, str) or not completion.strip():
        raise UserError(f"{place}: the answer (doc_to_target) is empty, so there is nothing to learn")
    by_likelihood = task.OUTPUT_TYPE != "generate_until"
    if isinstance(prompt, _Conversation):
        return Example(prompt.messages, completion, prompt.open_turn, by_likelihood, place=place)
    return Example(prompt, completion, by_likelihood=by_likelihood, place=place)


def _capture(messages: list[Any], add_generation_prompt: bool) -> _Conversation:
    """Stands where lm-eval expects the chat template: keeps the messages, since the tokenizer comes later."""
    return _Conversation([dict(message) for message in messages], not add_generation_prompt)


def _scored(task: Any, doc: Any, context: Any, chat: bool, place: str) -> tuple[Any, str]:
    """Prompt and completion of the right answer among the requests that lm-eval would send to the model."""
    requests = task.construct_requests(doc, context, apply_chat_template=chat, chat_template=None)
    if task.OUTPUT_TYPE == "loglikelihood":
        return requests.args[0], requests.args[1]
    choices = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    request = requests[_choice_index(gold, choices, place)]
    return request.args[0], request.args[1]


def _choice_index(gold: Any, choices: list[str], place: str) -> int:
    if isinstance(gold, list):  # several right answers: learn the first
        gold = gold[0] if gold else None
    if isinstance(gold, int) and 0 <= gold < len(choices):
        return int(gold)
    if isinstance(gold, str) and gold in choices:
        return choices.index(gold)
    shown = ", ".join(map(repr, choices[:12])) + (", ..." if len(choices) > 12 else "")
    raise UserError(f"{place}: the label {gold!r} is not among the choices: {shown}")


def right_answers(task: Any, doc: Any, chat: bool, place: str) -> list[str]:
    """All right answers that a model may write, each with the delimiter that lm-eval puts before one in a solved
    example; arguments and errors as of `example_from`."""
    gold = task.doc_to_target(doc)
    if task.config.doc_to_choice is not None:
        choices = task.doc_to_choice(doc)
        if isinstance(gold, str):  # lm-eval indexes the choices with it when it scores
            raise UserError(f"{place}: doc_to_target must be the number of a choice here, not {gold!r}")
        gold = choices[_choice_index(gold, choices, place)]
    golds = gold if isinstance(gold, list) else [gold]
    return [_delimited(task, doc, str(answer), chat) for answer in golds]


def _delimited(task: Any, doc: Any, answer: str, chat: bool) -> str:
    from lm_eval.api.utils import requires_delimiter

    if prefix := task.doc_to_prefix(doc):
        return f" {answer}" if answer and requires_delimiter(prefix, answer) else answer
    return answer if chat or not answer else f"{task.config.target_delimiter}{answer}"


def divided_answer(task: Any, docs: Iterable[Any]) -> str | None:
    """The first answer of some documents that is a text, such as "[1, 2]", and that lm-eval takes for a list of several
    since it looks like one in Python; None where there is none."""
    from lm_eval import utils

    template = getattr(task.config, "doc_to_target", None)
    if task.OUTPUT_TYPE != "generate_until" or not isinstance(template, str) or "[" in template:
        return None  # else the template itself makes a list
    for doc in docs:
        fields = used_fields(template, "doc_to_target", plain_name=True)
        if isinstance(task.doc_to_target(doc), list) and all(isinstance(doc.get(field), str) for field in fields):
            return None if template in fields else str(utils.apply_template(template, doc))
    return None
