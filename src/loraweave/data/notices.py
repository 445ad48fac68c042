"""What a person is told about the data before the first step: text that is cut, left out, moved, or out of reach."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from loraweave.data.taught import taught_in_vain
from loraweave.errors import UserError
from loraweave.tasks import Task
from loraweave.tasks.examples import Example
from loraweave.tasks.prompts import right_answers
from loraweave.tasks.template import FOLDED, folding_tasks
from loraweave.tasks.turn import turn_of

MOST_CUT = 0.5
"""A task may lose this share of its prompts' beginnings before it is an error: there the instructions stand."""


@dataclass(frozen=True)
class Cut:
    """What the length limit did to the training examples of one task.

    Attributes:
        name: of the task.
        examples: that it has.
        cut, dropped: how many lost the beginning of their prompt, and how many did not fit at all.
    """

    name: str
    examples: int
    cut: int
    dropped: int

    @property
    def too_many(self) -> bool:
        """Whether the task has lost most of its prompts' beginnings."""
        return self.cut + self.dropped > MOST_CUT * self.examples


def notices(
    tasks: Sequence[Task], tokenizer: Any, cuts: Sequence[Cut], longest: int, asked: int, reads: int
) -> Iterator[str]:
    """What data were taken for, and a line for each thing that is not as it stands in the files.

    Args:
        cuts: of the tasks.
        longest: tokens that an example may have.
        asked: the run file's `max_length`: more than `longest` where the model has no positions for it.
        reads: tokens that the model can read.
    """
    for task in tasks:
        yield from (f"{task.name}: {line}" for line in (task.about, *task.notes) if line)
    if folding := folding_tasks(tokenizer, ((task.name, task.training_examples()) for task in tasks)):
        yield FOLDED.format(", ".join(folding))
    for cut in cuts:
        if cut.cut:
            limit = "train.max_length" if asked <= longest else "what the model can read"
            yield (
                f"{cut.name}: {cut.cut:,} of {cut.examples:,} prompts lose their beginning: with their answer they are "
                f"longer than {longest:,} tokens, {limit}"
            )
        if cut.dropped:
            yield f"{cut.name}: {cut.dropped:,} examples left out, their answer is longer than {longest:,} tokens"
    for task in tasks:
        yield from special_words(task.name, task.training_examples(), tokenizer)
        yield from out_of_reach(task, tokenizer, reads)
        if in_vain := taught_in_vain(task):
            yield in_vain


def special_words(name: str, examples: Sequence[Example], tokenizer: Any) -> Iterator[str]:
    """What to say of a task's texts that hold a special token written out: a tokenizer reads it as the token, which may
    end a turn in the middle. Plain prompts are left out, for some people write a template's tokens themselves."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special and token.content]
    if not special or getattr(tokenizer, "split_special_tokens", False):
        return
    pattern = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
    found = [match for each in examples if (match := next(filter(None, map(pattern.search, _said(each))), None))]
    if found:
        yield (
            f"{name}: {len(found):,} of {len(examples):,} examples hold a special token written out, such as "
            f"{found[0][0]!r}, which is read as the token and not as words"
        )


def _said(example: Example) -> Iterator[str]:
    """The words of a chat, and the answer."""
    for part in (example.prompt, example.completion):
        if isinstance(part, list):
            yield from (str(message["content"]) for message in part)
    if isinstance(example.completion, str):
        yield example.completion


def check_cuts(cuts: Sequence[Cut], longest: int) -> None:
    """Refuse to train on prompts of which most have lost their beginning, or are left out.

    Raises:
        UserError: naming the tasks, and the key of the run file that asks for it all the same.
    """
    bad = [cut for cut in cuts if cut.too_many]
    if bad:
        lost = ", ".join(f"{cut.name!r} {cut.cut + cut.dropped:,} of {cut.examples:,}" for cut in bad)
        out = ", or are left out, for their answer alone is longer" if any(cut.dropped for cut in bad) else ""
        raise UserError(
            f"with {longest:,} tokens at most, most prompts lose their beginning, where instructions stand{out} "
            f"(task {lost}): raise train.max_length if the model reads more, or set `cut_prompts: true` to train on "
            "what is left"
        )


def longest_answer(reads: int) -> int:
    """Tokens that an answer may have where the task does not say: lm-eval's 256, but no more than half of what a small
    model can read."""
    return min(256, reads // 2)


def out_of_reach(task: Task, tokenizer: Any, reads: int) -> Iterator[str]:
    """What to say of right answers to test examples that cannot be written whole, if there are such.

    They hold a text that ends an answer (`until`), or are longer than an answer may get (`max_gen_toks`).
    """
    evaluated = task.lm_eval
    if evaluated is None or evaluated.OUTPUT_TYPE != "generate_until":
        return
    from lm_eval.models.utils import normalize_gen_kwargs

    settings: Any = normalize_gen_kwargs(dict(evaluated.config.generation_kwargs or {}), longest_answer(reads))
    stops = [stop for stop in (*settings["until"], tokenizer.eos_token, *_ends(task, tokenizer)) if stop]
    most = int(settings["max_gen_toks"])
    count, stopped, long, found = 0, 0, 0, ""
    for doc in evaluated.eval_docs:
        count += 1
        try:
            answers = right_answers(evaluated, doc, task.chat_template, task.name)
        except Exception:  # a document that cannot be scored is told when it is
            continue
        ended = [next((stop for stop in stops if stop in answer), "") for answer in answers]
        if answers and all(ended):
            stopped, found = stopped + 1, found or ended[0]
        elif answers and all(_longer(a, most, tokenizer) for a, end in zip(answers, ended, strict=True) if not end):
            long += 1
    if stopped:
        yield (
            f"{task.name}: no model can write the right answer to {stopped:,} of {count:,} test examples: it holds "
            f"{found!r}, where writing stops (generation_kwargs.until)"
        )
    if long:
        yield (
            f"{task.name}: no model can write the right answer to {long:,} of {count:,} test examples: it is longer "
            f"than {most:,} tokens (generation_kwargs.max_gen_toks)"
        )


def _ends(task: Task, tokenizer: Any) -> list[str]:
    """What ends a turn of a chat."""
    if not task.chat_template:
        return []
    turn = turn_of(tokenizer)
    return [turn.words, "" if turn.token is None else str(tokenizer.convert_ids_to_tokens(turn.token))]


def _longer(answer: str, most: int, tokenizer: Any) -> bool:
    """Whether it has more than `most` tokens; none has less than a byte."""
    return len(answer.encode()) > most and len(tokenizer.encode(answer, add_special_tokens=False)) > most
