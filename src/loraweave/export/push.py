"""Send an adapter or an export to the Hugging Face hub; what would stand in the way is told before any work is done."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from loraweave.adapters.config import NAME as ADAPTER_CONFIG
from loraweave.amounts import listed
from loraweave.bases.load import hub_in_reach
from loraweave.errors import UserError, in_a_line
from loraweave.export.record import NAME as EXPORT_RECORD
from loraweave.files import check_links, read_json
from loraweave.paths import REPLACED, UNFINISHED, folder_names
from loraweave.runs.folder import RunFolder, check_no_comparison, check_trained, read_summary

CARD = "README.md"
NOT_SENT = ["*.lock", f"*.{UNFINISHED}", f"*.{REPLACED}", ".*"]


LOADED = (ADAPTER_CONFIG, "*.safetensors", "*.index.json", "pytorch_model*.bin", "adapter_model.bin")
"""Files by which libraries tell what to load: of two kinds in one repository they take the one or the other."""


@dataclass(frozen=True)
class Pushed:
    """Something that was sent.

    Attributes:
        folder: what. url: where it is now.
        notes: what a person should know.
    """

    folder: Path
    url: str
    notes: tuple[str, ...] = ()


def check_hub(repo: str) -> None:
    """Find out whether something could be sent to a repository, before the work of making it.

    Raises:
        UserError: no such name can be, the hub is not in reach, or nobody is logged in who may write.
    """
    _check_name(repo)
    with _Told(repo):
        if not hub_in_reach():
            raise UserError(f"--push {repo}: the hub is not in reach (offline), so nothing could be sent there")
        who: Any = HfApi().whoami()
        token = who.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise UserError(f"--push {repo}: the token {token.get('displayName', '')!r} may only read")


def _check_name(repo: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UserError(
            f"--push {repo}: no name of a repository; write it as OWNER/NAME, or NAME for your own"
        ) from None


def push(folder: str | Path, repo: str, private: bool | None = None) -> list[Pushed]:
    """Send a run's adapter, an adapter, or an export to a repository, which is made where there is none.

    Args:
        folder: of a finished run (its adapter, or the model where all was trained), of an adapter, or of an export; an
            export with a folder for each task goes to a repository for each, named OWNER/NAME-TASK.
        repo: OWNER/NAME, or NAME for one's own.
        private: whether a new repository is; as the hub's own settings have it when None.

    Raises:
        UserError: there is nothing in the folder that could be sent, a link in it leads to what is not its own, or the
            hub refuses it; says why.
    """
    check_hub(repo)
    parts = [*_parts(Path(folder), repo)]
    for _, name in parts:  # all of them before the first is sent
        _check_name(name)
    return [_send(one, name, private) for one, name in parts]


def _parts(folder: Path, repo: str) -> Iterator[tuple[Path, str]]:
    """The folders to send, each with its repository."""
    run = RunFolder(folder)
    if run.config.is_file():
        summary = read_summary(folder)
        check_trained(folder, summary)
        if summary["adapter"] is None:
            raise UserError(f"{folder}: nothing was trained in this run, so there is nothing to send")
        yield folder / summary["adapter"], repo
    elif any((folder / name).is_file() for name in (ADAPTER_CONFIG, EXPORT_RECORD)):
        yield folder, repo
    else:
        parts = sorted(part.parent for part in folder.glob(f"*/{EXPORT_RECORD}"))
        if not parts:
            check_no_comparison(folder)
            raise UserError(f"{folder}: holds no finished run, no adapter and no export, so there is nothing to send")
        for part, name in zip(parts, folder_names([part.name for part in parts]), strict=True):
            yield part, f"{repo}-{name}"


def _send(folder: Path, repo: str, private: bool | None) -> Pushed:
    notes = []
    check_links(folder)
    if (base := _base_of(folder)) is not None and Path(base).is_absolute():
        notes.append(f"its files name the base as {base}, which lies on this machine alone: say on the card what it is")
    with _Told(repo), tempfile.TemporaryDirectory() as aside:
        api = HfApi()
        name = api.create_repo(repo, private=private, exist_ok=True).repo_id
        card = Path(aside) / CARD
        if (folder / CARD).is_file():
            shutil.copy(folder / CARD, card)
            _let_be_read(card)
        what = f"{folder.name}, by loraweave"
        api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=[*NOT_SENT, CARD], commit_message=what)
        if card.is_file():
            api.upload_file(repo_id=name, path_or_fileobj=card, path_in_repo=CARD, commit_message="Its card")
        sent = {str(path.relative_to(folder)) for path in folder.rglob("*")}
        others = _loaded(set(api.list_repo_files(name)) - sent)
    if others and _loaded(sent):
        notes.append(
            f"{name} still has {listed(others[:3])}, of something else that was sent there before, which may be loaded "
            "in the place of this: remove it there"
        )
    return Pushed(folder, f"{api.endpoint}/{name}", tuple(notes))


def _loaded(files: Iterable[str]) -> list[str]:
    return sorted(file for file in files if any(fnmatch(file, pattern) for pattern in LOADED))


def _base_of(folder: Path) -> str | None:
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    return read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")


def _let_be_read(card: Path) -> None:
    """Take the base out of a card's front matter where it is a folder: the hub takes names of its own alone."""
    read = ModelCard.load(card)
    base = read.data.get("base_model")
    if isinstance(base, str) and (Path(base).is_dir() or not _is_repository(base)):
        del read.data.base_model
        read.save(card)


def _is_repository(name: str) -> bool:
    """Whether the hub may have a repository of this name, such as OWNER/NAME, or gpt2."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


class _Told:
    """Around calls of the hub: its many failures as one line."""

    def __init__(self, repo: str) -> None:
        self.repo = repo

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, UserError):
            return
        if isinstance(error, LocalTokenNotFoundError):
            raise UserError(f"--push {self.repo}: nobody is logged in: hf auth login, or set HF_TOKEN") from error
        if isinstance(error, HfHubHTTPError):
            status = getattr(error.response, "status_code", 0)
            why = {401: "the token is not valid", 403: "the token may not write there"}.get(status, in_a_line(error))
            raise UserError(f"--push {self.repo}: the hub refuses: {why}") from error
        if isinstance(error, (HTTPError, ConnectionError)):
            raise UserError(f"--push {self.repo}: the hub is not in reach ({in_a_line(error)})") from error
        if isinstance(error, ValueError):  # what it says of a card
            raise UserError(f"--push {self.repo}: {in_a_line(error)}") from error
