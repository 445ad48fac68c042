"""The run file: which model, which method, which tasks, how they are mixed, trained and evaluated."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator
from typing_extensions import Self

from loraweave.adapters.write import BASE_RECORD
from loraweave.bases.gguf import SUFFIX as GGUF
from loraweave.bases.spec import BaseSpec
from loraweave.data.mixture import MixtureConfig
from loraweave.errors import ManyError, UserError, check_none, nearest, shown
from loraweave.files import write_text
from loraweave.paths import user_path
from loraweave.runs.methods import METHODS, choose_method
from loraweave.runs.problems import Places, halves, told
from loraweave.runs.settings import train_problems
from loraweave.runs.yamlfile import Lines, NotYamlError, parse_value, read_yaml
from loraweave.tasks import Task, load_tasks
from loraweave.tasks.sources import YAML_SUFFIXES, is_path, matching
from loraweave.tasks.spec import HowToLoad, OnBadRow, parse_spec
from loraweave.tasks.untrained import load_untrained

MAX_SEED = 2**32 - 1  # what NumPy takes
_PATHS = ("task", "eval", "validation", "test", "data_dir")
"""Keys of an entry that may be paths."""
DEFAULT_METHOD = "lora"


def _fit_task(entry: str | dict[str, Any]) -> str | dict[str, Any]:
    parse_spec(entry, "tasks")
    return entry


def _fit_untrained(entry: str | dict[str, Any]) -> str | dict[str, Any]:
    parse_spec(entry, "eval.forgetting")
    return entry


class EvalConfig(BaseModel):
    """How the trained model is scored.

    Attributes:
        limit: the first so many test examples of each task; all when None.
        batch_size: rows per forward pass; when None 64, and fewer where they are long.
        num_fewshot: solved examples before each question; none where a loss on held-out rows is the score.
        forgetting: what the run is not trained for and is scored on all the same, before and after: tasks as under
            `tasks`, a text file (`.txt`), or "plain_english", a text that ships.
    """

    model_config = ConfigDict(extra="forbid")

    limit: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    num_fewshot: int = Field(default=0, ge=0)
    forgetting: list[Annotated[str | dict[str, Any], AfterValidator(_fit_untrained)]] = Field(default_factory=list)


def _as_written(value: Any) -> str:
    """Whether `model:` is a mapping or a name, so that only what is wrong with the one that it is gets told."""
    return "a mapping" if isinstance(value, (Mapping, BaseSpec)) else "a name"


_Name = Annotated[str, Field(min_length=1), Tag("a name")]  # as BaseSpec has it
Model = Annotated[_Name | Annotated[BaseSpec, Tag("a mapping")], Discriminator(_as_written)]
_SHORT = {"model": ("name", None), "method": ("name", DEFAULT_METHOD), "mixture": ("strategy", "proportional")}
"""Sections that may be a word: which of their keys it is, and what they are by default. So `method.r=8` can be set over
`method: rlora`, and `mixture.total=100` over `mixture: equal`."""
_OF_PYDANTIC = ("str", "dict[str,any]", "a name", "a mapping")
"""What pydantic puts into the place of an error beside the file's own keys."""


class RunConfig(BaseModel):
    """A run file.

    Attributes:
        model: the base: "nano", a folder, a .gguf file or a name on the hub; or a mapping with `name` and how it is
            loaded.
        method: a method's name; a mapping with `name` and that method's fields; bare knobs of WeaveConfig; or a mapping
            with `adapter`, the folder of one to train on.
        tasks: lm-eval task names, task YAMLs or data, or mappings with `task` and what else is said about it.
        data_dir: where task YAMLs look for their data files.
        chat_template: send prompts through the tokenizer's chat template, in training and in evaluation.
        cut_prompts: train also where a task loses most of its prompts' beginnings to `train.max_length`.
        on_bad_row: whether a row of data that cannot be used is an error, or is skipped, said and noted in the run's
            folder; for tasks that do not say it themselves.
        mixture: how often each task is drawn.
        train: Hugging Face TrainingArguments by their own names, with defaults of this package. `learning_rate` may be
            one number, or one for each method by its name; `only: router` trains the routers of an adapter alone.
        eval: how the trained model is scored.
        seed: of the adapter's start, the order of the data and dropout.
        output: folder of the run.
        trust_code: run functions that task files name, and code that comes with a base. It is never saved with a run,
            and a run file that lies in a run's folder cannot say it.
        base_dir: where relative paths start; seen from the run file's own folder, which it is by default, or from
            where Python runs.

    Raises:
        UserError: an unknown key (with the nearest known one), one that is missing, or a value out of range.
    """

    model_config = ConfigDict(extra="forbid")

    model: Model
    method: str | dict[str, Any] = DEFAULT_METHOD
    tasks: list[Annotated[str | dict[str, Any], AfterValidator(_fit_task)]] = Field(min_length=1)
    data_dir: str | None = None
    chat_template: bool = False
    cut_prompts: bool = False
    on_bad_row: OnBadRow = "error"
    mixture: MixtureConfig = Field(default_factory=lambda: MixtureConfig.model_validate({}))
    train: dict[str, Any] = Field(default_factory=dict)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    output: str | None = None
    trust_code: bool = Field(default=False, exclude=True)
    base_dir: Path = Field(default_factory=Path.cwd)

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        if not (isinstance(value, dict) and "adapter" in value):  # that is looked for from where paths start
            choose_method(value)
        return value

    @field_validator("train")
    @classmethod
    def _known_training_arguments(cls, value: dict[str, Any]) -> dict[str, Any]:
        rates = value.get("learning_rate")
        unknown = [name for name in rates if name not in METHODS] if isinstance(rates, Mapping) else []
        told = [f"train.learning_rate: unknown method {name!r}{nearest(name, METHODS)}" for name in unknown]
        check_none([*train_problems(value), *told])
        return value

    def __init__(self, **values: Any) -> None:
        self._fill(values, Places(Lines(Path("RunConfig"), None), {}, _OF_PYDANTIC))

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = (), base_dir: str | None = None) -> Self:
        """Read a run file and put settings over it.

        Relative `model`, `data_dir` and `output` start at `base_dir`, which is the file's folder where the file does
        not say it; given as an override, where the command was typed.

        Args:
            path: of the file.
            overrides: `key.subkey=value`, the values parsed as YAML.
            base_dir: in the place of the one that the file says.

        Raises:
            UserError: no such file, text that does not parse, an unknown key or a value out of range; with file and
                line, and the nearest known key.
        """
        values, places = read_run_file(path, overrides)
        if base_dir is not None:
            values["base_dir"] = base_dir
        config = cls.__new__(cls)
        config._fill(values, places)
        if (Path(path).parent / BASE_RECORD).exists():  # a run's folder, which may be somebody else's
            config.trust_code = False
            if isinstance(config.model, BaseSpec):
                config.model = config.model.model_copy(update={"trust_code": False})
        return config

    @classmethod
    def of(cls, given: "RunConfig | str | Path") -> Self:
        """A run file that is read already, or read now.

        Args:
            given: the run file, or its path.

        Raises:
            UserError: as `load` does.
        """
        return given if isinstance(given, cls) else cls.load(given)  # type: ignore[arg-type]

    def _fill(self, values: dict[str, Any], places: Places) -> None:
        """Check and take the values, paths from where they start; ManyError with the place of each wrong one."""
        check_none(halves(values, places))
        try:
            self.__pydantic_validator__.validate_python(values, self_instance=self)
        except ValidationError as error:
            raise ManyError(told(error, places, _known_beside)) from error
        self.base_dir = _path(("base_dir",), self.base_dir, Path.cwd(), places)
        for key in ("data_dir", "output"):
            if (written := getattr(self, key)) is not None:
                start = Path() if (key,) in places.set_here else self.base_dir
                found = _path((key,), written, start, places)
                setattr(self, key, str(found if key == "output" else found.resolve()))
        self._find_base(places)
        self._trained_on(places)

    def _trained_on(self, places: Places) -> None:
        """The method of an adapter that is trained on: its path from where paths start, and its name with it, so that
        the run can be read when the adapter has gone."""
        if not isinstance(self.method, dict) or "adapter" not in self.method:
            return
        start = Path() if ("method", "adapter") in places.set_here else self.base_dir
        try:
            given = {**self.method, "adapter": str(user_path(str(self.method["adapter"]), start).resolve())}
            self.method = choose_method(given).spec
        except UserError as error:
            raise UserError(f"{places.of(['method'])}: {error}") from None

    def _find_base(self, places: Places) -> None:
        """Make the base's name a whole path where it is one."""
        keys = ("model", "name") if isinstance(self.model, BaseSpec) else ("model",)
        start = Path() if places.set_here.keys() & {keys, ("model",)} else self.base_dir
        name = self.base.name
        found = _path(keys, name, start, places)
        there = found.is_dir() or (found.suffix == GGUF and found.is_file())
        if name != "nano" and (there or name.startswith((".", "~", os.sep))):  # else a name on the hub
            self.model = self._named(str(found.resolve()))

    def _named(self, name: str) -> str | BaseSpec:
        """`model`, by another name."""
        return self.model.model_copy(update={"name": name}) if isinstance(self.model, BaseSpec) else name

    @property
    def base(self) -> BaseSpec:
        """The base and how it is loaded."""
        return BaseSpec.of(self.model, self.trust_code)

    def moved_to(self, folder: Path) -> "RunConfig":
        """The same with its files below another folder than `base_dir`, by the paths that they had from there; whatever
        was outside of it, in that folder by its name. The base stays where it is unless it is there too."""

        def moved(written: str) -> str:
            path = Path(os.path.normpath(user_path(written, self.base_dir)))
            if path.is_relative_to(self.base_dir):
                return str(folder / path.relative_to(self.base_dir)) if user_path(written).is_absolute() else written
            return str(folder / path.name)

        there = moved(self.base.name) if Path(self.base.name).is_absolute() else ""
        model = self._named(there) if there and Path(there).exists() else self.model
        changed = {"base_dir": folder, "data_dir": self.data_dir and moved(self.data_dir), "model": model}
        return self.model_copy(update={**changed, **self._with_paths(moved)})

    def lacking(self) -> Path | None:
        """The first file or folder that the run file names by a path, and that is not there; None where all are."""
        named = [self.base.name, *filter(None, [self.data_dir])]

        def noted(written: str) -> str:
            named.append(written)
            return written

        self._with_paths(noted)
        paths = {written: user_path(written, self.base_dir) for written in named if is_path(written)}
        return next((path for w, path in paths.items() if not path.exists() and not matching(w, self.base_dir)), None)

    def _with_paths(self, change: Callable[[str], str]) -> dict[str, Any]:
        """The entries of what is trained and scored, with each of their paths changed."""

        def of(entry: str | dict[str, Any]) -> str | dict[str, Any]:
            if isinstance(entry, str):
                return change(entry)
            paths = {key for key in _PATHS if isinstance(entry.get(key), str)}
            return {key: change(value) if key in paths else value for key, value in entry.items()}

        forgetting = [of(entry) for entry in self.eval.forgetting]
        tasks = [of(entry) for entry in self.tasks]
        return {"tasks": tasks, "eval": self.eval.model_copy(update={"forgetting": forgetting})}

    @property
    def method_name(self) -> str:
        """The method's name, "weave" for bare knobs."""
        return choose_method(self.method).name

    @property
    def how_tasks_load(self) -> HowToLoad:
        """What the run file says for all of its tasks."""
        return HowToLoad(self.base_dir, self.data_dir, self.chat_template, self.seed, self.trust_code, self.on_bad_row)

    def load_tasks(self) -> list[Task]:
        """The tasks of the run file, in the order of their ids."""
        return load_tasks(self.tasks, *self.how_tasks_load)

    def load_forgetting(self, tasks: Sequence[Task], entries: Sequence[Any] | None = None) -> list[Task]:
        """What the run is not trained for and is scored on.

        Args:
            tasks: that it is trained on.
            entries: in the place of the run file's `eval.forgetting`.
        """
        trained = {task.name: task.origin for task in tasks}
        return load_untrained(self.eval.forgetting if entries is None else entries, trained, *self.how_tasks_load)

    def as_dict(self) -> dict[str, Any]:
        """The run file as plain values, defaults included."""
        return self.model_dump(mode="json")

    def with_paths_from_base(self) -> "RunConfig":
        """The same with what its entries name below `base_dir` by its path from there, however it was written."""
        return self.model_copy(update=self._with_paths(self._from_base))

    def _from_base(self, written: str) -> str:
        path = user_path(written)
        return path.relative_to(self.base_dir).as_posix() if path.is_relative_to(self.base_dir) else written

    def save(self, path: Path) -> None:
        """Write the run file to `path`, defaults included; `load` gives the same configuration back.

        `base_dir` is written as the way from the file's folder, and what lies below it as the way from there, so that
        all of it may move together. What lies elsewhere keeps its whole path.
        """
        values = self.with_paths_from_base().as_dict()
        for key in ("data_dir", "output"):
            values[key] = values[key] and self._from_base(values[key])
        base = self._from_base(self.base.name)
        base = base if base == self.base.name else f"./{base}"  # else it may be a name on the hub
        values["model"] = base if isinstance(self.model, str) else {**values["model"], "name": base}
        if isinstance(self.method, dict) and "adapter" in self.method:
            values["method"] = {**self.method, "adapter": self._from_base(str(self.method["adapter"]))}
        values["base_dir"] = Path(os.path.relpath(self.base_dir, path.parent.resolve())).as_posix()
        write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def read_run_file(path: str | Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Places]:
    """What stands in a run file, with settings put over it, and where; arguments and errors as of `RunConfig.load`, but
    no value is looked at."""
    path = Path(path)
    values, lines = read_yaml(path)
    if isinstance(start := values.setdefault("base_dir", ""), str) and not start.startswith("~"):
        values["base_dir"] = os.path.normpath(path.parent.resolve() / start)
    set_here: dict[tuple[str, ...], str] = {}
    for override in overrides:
        keys, value = _parse_override(override)
        _put(values, keys, value, override)
        set_here[keys] = override
    return values, Places(lines, set_here, _OF_PYDANTIC)


def _path(keys: tuple[str, ...], written: str | Path, start: Path, places: Places) -> Path:
    """The path that stands under some keys; UserError with their place where there can be no such path."""
    try:
        return user_path(written, start)
    except UserError as error:
        raise UserError(f"{places.of(keys)}: {keys[0]}: {error}") from None


def is_run_file(name: str | Path) -> bool:
    """Whether a file is one by its keys: a YAML that has `tasks`, where a task's own has `task` or `group`."""
    path = user_path(name)
    if path.suffix not in YAML_SUFFIXES or not path.is_file():
        return False
    return re.search(rb"^tasks[ \t]*:", path.read_bytes(), re.MULTILINE) is not None


def _parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UserError(f"--set {shown(override)}: write it as key=value, such as train.learning_rate=1e-4")
    try:
        return tuple(key.strip().split(".")), parse_value(text)
    except NotYamlError as error:
        raise UserError(f"--set {shown(override)}: the value is not valid YAML: {error.reason}") from error


def _put(values: dict[str, Any], keys: Sequence[str], value: Any, override: str) -> None:
    *parents, last = keys
    for section, (name, default) in _SHORT.items():
        if parents == [section] and isinstance(values.get(section, default), str):
            values[section] = {name: values.get(section, default)}
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {shown(override)}: {parent!r} is not a mapping in the run file")
    values[last] = value


def _known_beside(place: Sequence[Any]) -> Iterable[str]:
    """The keys that may stand where the last of some keys does."""
    models: dict[str, type[BaseModel]] = {"model": BaseSpec, "mixture": MixtureConfig, "eval": EvalConfig}
    known = models.get(str(place[0]), RunConfig) if len(place) > 1 else RunConfig
    return [key for key in known.model_fields if key != "base_dir"]
