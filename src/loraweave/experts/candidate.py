"""A LoRA that is to become an expert: what it must be, and what is known of it by its files and by its run's."""

from contextlib import suppress
from pathlib import Path

from loraweave.adapters.config import TOKENIZER
from loraweave.adapters.loras import check_plain, fetched
from loraweave.bases import BaseSpec, load_tokenizer
from loraweave.errors import UserError
from loraweave.export.source import Source, open_source
from loraweave.runs.folder import RunFolder, read_base_record, read_summary
from loraweave.runs.origin import plain_tasks, say_other_tokenizer


def admitted(source: str | Path, base: str | None) -> Source:
    """A LoRA that could be an expert."""
    found = open_source(fetched(str(source)), base)
    check_plain(found.adapter, "be an expert")
    return found


def say_tokenizer(source: Source) -> None:
    """Say that another tokenizer than the base's lies beside a LoRA, as far as the base's is at hand. What a run
    was trained with is compared when it is loaded."""
    folder = source.adapter.folder
    record = read_base_record(folder)
    if "tokenizer" not in record and any((folder / file).is_file() for file in TOKENIZER):
        with suppress(UserError):
            say_other_tokenizer(source.folder, record, folder, source.base_name, load_tokenizer(source.spec))


def own_name(source: Source, where: str) -> str:
    """What an expert is called if nobody says it; `where` it came from, which on the hub is no folder."""
    last = Path(where).name or source.folder.resolve().name
    tasks = _tasks_of(source) or [last]
    if len(tasks) > 1:
        raise UserError(f"{source.folder}: trained on {len(tasks)} tasks ({', '.join(tasks)}): name the expert")
    return tasks[0]


def is_plain(source: Source) -> bool:
    """Whether all that a run was trained on were plain prompts."""
    tasks = _tasks_of(source)
    if source.config is None or not tasks:
        return False
    return plain_tasks(RunFolder(source.folder), source.config, tasks) == tasks


def _tasks_of(source: Source) -> list[str]:
    """What a LoRA was trained on, whose data may be elsewhere by now; nothing where no run says it."""
    return [] if source.config is None else [row["task"] for row in read_summary(source.folder)["mixture"]]


def base_of(source: Source) -> BaseSpec:
    """The base of a LoRA, by the name as it was written."""
    return BaseSpec.of(source.base_name, revision=source.spec.revision)
