"""A library of experts: a folder of plain PEFT LoRAs of one base, and a manifest of what they are.

    library.json      the base, and for each expert its task in words, examples, scores and the hashes of its files
    experts/NAME/     one expert: adapter_config.json and adapter_model.safetensors, as PEFT reads them

Many may read while one writes: writers wait for each other, an expert's folder is whole before the manifest names it,
and the manifest is replaced in one piece. What a reader opens is compared with the hashes first.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace as changed
from datetime import datetime, timezone
from pathlib import Path

from loraweave.adapters.config import NAME as CONFIG
from loraweave.adapters.file import WEIGHTS, AdapterFile
from loraweave.adapters.loras import check_plain, common_sizes
from loraweave.adapters.tensors import rank_and_alpha
from loraweave.adapters.write import BASE_RECORD
from loraweave.bases import BaseName, BaseSpec, resolve_base
from loraweave.errors import UserError
from loraweave.evaluation.scores import TaskScore
from loraweave.experts.candidate import admitted, base_of, is_plain, own_name, say_tokenizer
from loraweave.experts.manifest import (
    EXPERTS,
    NAME,
    Expert,
    Manifest,
    brief,
    check_name,
    check_texts,
    read_manifest,
    write_manifest,
)
from loraweave.files import aside, check_links, damage, hashes_of, is_left_over, written_whole
from loraweave.locks import locked
from loraweave.paths import REPLACED, folder_names
from loraweave.runs.folder import BaseRecord

PATIENCE = 600.0
"""Seconds that a writer waits for another one: what was trained for hours must not be lost to a moment."""
_TRIES = 5


class ExpertLibrary:
    """A library that is there already; `create` makes one.

    Args:
        folder: of the library.

    Raises:
        UserError: it holds no library, or a manifest that cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        read_manifest(self.folder)

    @classmethod
    def create(cls, folder: str | Path, base: BaseName, fingerprint: str | None = None) -> "ExpertLibrary":
        """The library of a base in a folder: a new one, or the one that is there.

        Args:
            folder: new, empty, or a library of this base.
            base: its name or folder, with its revision where it is a specification.
            fingerprint: of its weights, where that is known.

        Raises:
            UserError: the folder holds something else, or a library of another base.
        """
        folder = Path(folder)
        spec = BaseSpec.of(base)
        resolve_base(spec)
        with locked(folder, "the library", PATIENCE):
            if not (folder / NAME).is_file():
                if not all(map(is_left_over, folder.iterdir())):
                    raise UserError(f"{folder}: holds something else than a library of experts; name another folder")
                write_manifest(folder, Manifest(_record(spec, fingerprint), {}))
                return cls(folder)
            library, there = cls(folder), read_manifest(folder)
            record = library._one_base(there.base, spec, fingerprint, "what is asked for")
            if record != there.base:
                write_manifest(folder, changed(there, base=record))
            return library

    @classmethod
    def of_lora(cls, folder: str | Path, source: str | Path, base: str | None = None) -> "ExpertLibrary":
        """The library in a folder, or a new one for a LoRA that is to be added to it.

        Args:
            folder: of a library, or new.
            source, base: as of `add`.

        Raises:
            UserError: there is none, and the LoRA could not be added to a new one.
        """
        if (Path(folder) / NAME).is_file():
            return cls(folder)
        found = admitted(source, base)
        return cls.create(folder, base_of(found), found.fingerprint)

    @property
    def base(self) -> BaseRecord:
        """The base of all experts: its `name`, its `revision` on the hub where one was said, and its `fingerprint` as
        soon as an expert has brought it."""
        return read_manifest(self.folder).base

    def experts(self) -> dict[str, Expert]:
        """The experts that the library has now, by name, in the order in which they came."""
        return read_manifest(self.folder).experts

    def expert(self, name: str) -> Expert:
        """The expert that is called `name`.

        Raises:
            UserError: there is none.
        """
        return read_manifest(self.folder).expert(name, self.folder)

    def load(self, name: str) -> AdapterFile:
        """The files of the expert `name`, open, found to be as they were added: hashes, shapes, and finite numbers.

        Raises:
            UserError: there is no such expert, or its files are missing or damaged; names what is wrong.
        """
        expert = self.expert(name)
        for _ in range(_TRIES):
            try:
                return _opened(expert)
            except UserError:
                before, expert = expert, self.expert(name)
                if expert == before:  # else a writer has replaced it since the manifest was read
                    raise
        raise UserError(f"{self.folder}: {name} is replaced again and again while it is read")

    def add(
        self,
        source: str | Path,
        name: str | None = None,
        *,
        description: str = "",
        instructions: Sequence[str] = (),
        prefixes: Sequence[str] = (),
        scores: Mapping[str, TaskScore] | None = None,
        plain: bool | None = None,
        base: str | None = None,
        replace: bool = False,
    ) -> Expert:
        """Add a plain LoRA; its files are copied as they are, and nothing of the other experts is touched. A tokenizer
        beside it stays behind, for experts answer through the base's; that it is another one is a `Notice`.

        Args:
            source: the folder of a LoRA that PEFT or whatever else saved, of a finished run, or a name on the hub.
            name: of its task; by default the run's task if it has one alone, else the name of the folder, or on
                the hub.
            description: what its task is, in words.
            instructions: examples of what its task is asked.
            prefixes: how everything that its task is asked begins, where that tells it from the others.
            scores: what it scored, by task, with their units, as `loraweave.evaluate` gives them.
            plain: whether it was trained on plain prompts and not on chats; by default what its run's files say.
            base: name or folder of its base, in the place of the one that the LoRA names.
            replace: take the place of an expert of this name. Who is reading the old one reads it to its end.

        Raises:
            UserError: no plain LoRA, one of another base, layers of other sizes than the other experts', a name that is
                taken or none; or the library cannot be written. It is as it was then.
        """
        check_texts(description, instructions=instructions, prefixes=prefixes)
        found = admitted(source, base)
        say_tokenizer(found)
        name = own_name(found, str(source)) if name is None else name
        check_name(name, str(source))
        with self._written() as manifest:
            if name in manifest.experts and not replace:
                raise UserError(f"{self.folder}: there is an expert {name!r} already; remove it first, or replace it")
            record = self._one_base(manifest.base, base_of(found), found.fingerprint, str(source))
            common_sizes([found.adapter, *_readable(e for other, e in manifest.experts.items() if other != name)])
            folder = self._free_folder(name)
            with written_whole(folder) as unfinished:
                for file in (CONFIG, WEIGHTS, BASE_RECORD):
                    if (found.adapter.folder / file).is_file():
                        shutil.copyfile(found.adapter.folder / file, unfinished / file)
                copied = AdapterFile(unfinished)  # what was checked may have changed since
                copied.check_values()
                hashes = hashes_of(unfinished)
            expert = Expert(
                name=name,
                folder=folder,
                description=description,
                instructions=tuple(instructions),
                prefixes=tuple(prefixes),
                rank=max(rank_and_alpha(copied.config, layer)[0] for layer in copied.sizes),
                parameters=copied.parameters,
                source=str(source),
                added=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                fingerprint=found.fingerprint,
                files=hashes,
                scores=brief(scores or {}),
                plain=is_plain(found) if plain is None else plain,
            )
            write_manifest(self.folder, Manifest(record, {**manifest.experts, name: expert}))
            if name in manifest.experts:
                _discard(manifest.experts[name].folder)
        return expert

    def describe(
        self,
        name: str,
        *,
        description: str | None = None,
        instructions: Sequence[str] | None = None,
        prefixes: Sequence[str] | None = None,
        scores: Mapping[str, TaskScore] | None = None,
    ) -> Expert:
        """Change what is said of an expert; its files stay as they are.

        Args:
            name: of the expert.
            description, instructions, prefixes: as of `add`; None leaves them.
            scores: with their units, to be put beside or over those that are there.

        Raises:
            UserError: there is no such expert.
        """
        check_texts(description or "", instructions=instructions or (), prefixes=prefixes or ())
        with self._written() as manifest:
            expert = manifest.expert(name, self.folder)
            expert = changed(
                expert,
                description=expert.description if description is None else description,
                instructions=tuple(expert.instructions if instructions is None else instructions),
                prefixes=tuple(expert.prefixes if prefixes is None else prefixes),
                scores={**expert.scores, **brief(scores or {})},
            )
            write_manifest(self.folder, changed(manifest, experts={**manifest.experts, name: expert}))
        return expert

    def remove(self, name: str) -> None:
        """Take the expert `name` out and remove its files; the others are not touched.

        Raises:
            UserError: there is no such expert.
        """
        with self._written() as manifest:
            expert = manifest.expert(name, self.folder)
            left = {other: each for other, each in manifest.experts.items() if other != name}
            write_manifest(self.folder, changed(manifest, experts=left))
            _discard(expert.folder)

    def verify(self, progress: Callable[[str], None] = lambda _: None) -> dict[str, str]:
        """What is wrong, by expert or by the name of a folder that the manifest does not know; nothing if all is well.

        Every file of every expert is read, and the experts' layers are compared with each other.

        Args:
            progress: told of each expert before it is read.
        """
        for _ in range(_TRIES):
            manifest = read_manifest(self.folder)
            faults = self._faults(manifest, progress)
            if not faults or read_manifest(self.folder) == manifest:
                break  # else a writer was at work, and what seemed wrong may have been that
        return faults

    def _faults(self, manifest: Manifest, progress: Callable[[str], None]) -> dict[str, str]:
        faults: dict[str, str] = {}
        sound: list[AdapterFile] = []
        for name, expert in manifest.experts.items():
            progress(name)
            try:
                adapter = _opened(expert)
                common_sizes([*sound, adapter])
                sound.append(adapter)
            except UserError as error:
                faults[name] = str(error)
        known = {expert.folder.name for expert in manifest.experts.values()}
        for path in sorted((self.folder / EXPERTS).glob("*")):
            if path.name not in known and not is_left_over(path):
                faults[f"{EXPERTS}/{path.name}"] = "the manifest does not know it: add it, or remove it by hand"
        return faults

    @contextmanager
    def _written(self) -> Iterator[Manifest]:
        """The manifest, while no other writer is at work."""
        with locked(self.folder, "the library", PATIENCE):
            check_links(self.folder)
            for path in (self.folder / EXPERTS).glob("*"):
                if is_left_over(path):
                    shutil.rmtree(path, ignore_errors=True)
            yield read_manifest(self.folder)

    def _one_base(self, there: BaseRecord, spec: BaseSpec, fingerprint: str | None, whose: str) -> BaseRecord:
        """The library's base, with the fingerprint if it is new; UserError where that of `whose` is another one."""
        name, known = spec.name, there.get("fingerprint")
        if known and fingerprint and known != fingerprint:
            raise UserError(
                f"{whose}: of the base {name} with the fingerprint {fingerprint}; the library {self.folder} is of "
                f"{there['name']} with {known}"
            )
        if _resolved(name) != _resolved(there["name"]) and not (known and fingerprint):
            raise UserError(
                f"{whose}: of the base {name}, and the library {self.folder} is of {there['name']}; if that is the "
                "same, name the library's base with --base (base=…)"
            )
        revision = there.get("revision", "main")
        if spec.revision not in (None, revision) and not (known and fingerprint):
            raise UserError(
                f"{whose}: of the revision {spec.revision} of {name}, and the library {self.folder} is of {revision}; "
                "if that is the same, name the library's base with --base (base=…)"
            )
        return {**there, "fingerprint": fingerprint} if fingerprint and not known else there

    def _free_folder(self, name: str) -> Path:
        """A folder of that name which is not there: what is replaced stays until the manifest has changed."""
        parent = self.folder / EXPERTS
        there = [path.name for path in parent.glob("*") if not is_left_over(path)]
        return parent / folder_names([*there, name])[-1]


def _opened(expert: Expert) -> AdapterFile:
    if not expert.folder.is_dir():
        raise UserError(f"{expert.folder}: the folder of the expert {expert.name!r} is missing")
    adapter = AdapterFile(expert.folder)  # opened before it is hashed, so that what is read later is what was hashed
    if fault := damage(expert.folder, expert.files):
        raise UserError(f"{expert.folder}: the expert {expert.name!r} is damaged: {fault}")
    check_plain(adapter, "be an expert")
    adapter.check_values()
    return adapter


def _readable(experts: Iterable[Expert]) -> Iterator[AdapterFile]:
    """Those that can be read: what is wrong with one keeps no other out."""
    for expert in experts:
        with suppress(UserError):
            yield AdapterFile(expert.folder)


def _discard(folder: Path) -> None:
    """Take a folder away at once, whatever it takes to remove it."""
    old = aside(folder, REPLACED)
    if folder.exists():
        folder.replace(old)
        shutil.rmtree(old, ignore_errors=True)


def _record(base: BaseSpec, fingerprint: str | None) -> BaseRecord:
    record: BaseRecord = {"name": base.name}
    if fingerprint is not None:
        record["fingerprint"] = fingerprint
    if base.revision is not None:
        record["revision"] = base.revision
    return record


def _resolved(base: str) -> str:
    """What two names of one base have in common; a folder that is gone since is still a name."""
    try:
        return resolve_base(base)
    except UserError:
        return base
