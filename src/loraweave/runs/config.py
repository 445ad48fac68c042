"""The run file: which model, which method, which tasks, how they are mixed, trained and evaluated."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from typing_extensions import Self

from loraweave.data.mixture import MixtureConfig
from loraweave.errors import UserError, nearest, shown
from loraweave.files import write_text
from loraweave.paths import user_path
from loraweave.runs.methods import METHODS, choose_method
from loraweave.runs.settings import check_train_values
from loraweave.runs.yamlfile import Lines, NotYamlError, parse_value, read_yaml
from loraweave.tasks import Task, load_tasks
from loraweave.tasks.spec import parse_spec
from loraweave.tasks.untrained import load_untrained

MAX_SEED = 2**32 - 1  # what NumPy takes


def _fit_task(entry: str | dict[str, Any]) -> str | dict[str, Any]:
    parse_spec(entry, "tasks")
    return entry


def _fit_untrained(entry: str | dict[str, Any]) -> str | dict[str, Any]:
    parse_spec(entry, "eval.forgetting")
    return entry


class EvalConfig(BaseModel):
    """How the trained model is scored.

    Attributes:
        limit: test examples per task; all when None.
        batch_size: rows per forward pass; when None 64, and fewer where they are long.
        num_fewshot: solved examples before each question.
        forgetting: what the run is not trained for and is scored on all the same, before and after: tasks as under
            `tasks`, a text file (`.txt`), or "plain_english", a text that ships.
    """

    model_config = ConfigDict(extra="forbid")

    limit: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    num_fewshot: int = Field(default=0, ge=0)
    forgetting: list[Annotated[str | dict[str, Any], AfterValidator(_fit_untrained)]] = Field(default_factory=list)


class RunConfig(BaseModel):
    """A run file.

    Attributes:
        model: the base: "nano", a folder, or a name on the hub.
        method: a method's name; a mapping with `name` and that method's fields; bare knobs of WeaveConfig; or a mapping
            with `adapter`, the folder of one to train on.
        tasks: lm-eval task names, task YAMLs or data files, or mappings; see `tasks.load_tasks`.
        data_dir: where task YAMLs look for their data files.
        chat_template: send prompts through the tokenizer's chat template, in training and in evaluation.
        cut_prompts: train also where a task loses most of its prompts' beginnings to `train.max_length`.
        mixture: how often each task is drawn.
        train: Hugging Face TrainingArguments by their own names; see `settings.DEFAULTS`. `learning_rate` may be one
            number, or one for each method by its name; `only: router` trains the routers of an adapter alone.
        eval: how the trained model is scored.
        seed: of the adapter's start, the order of the data and dropout.
        output: folder of the run.
        trust_code: run functions that task files name, and code that comes with a base. It is never saved with a run,
            and a run file that lies in a run's folder cannot say it.
        base_dir: where relative paths start; the run file's own folder, or else where Python runs.

    Raises:
        UserError: an unknown key (with the nearest known one), one that is missing, or a value out of range.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    method: str | dict[str, Any] = "rlora"
    tasks: list[Annotated[str | dict[str, Any], AfterValidator(_fit_task)]] = Field(min_length=1)
    data_dir: str | None = None
    chat_template: bool = False
    cut_prompts: bool = False
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
        check_train_values(value)
        rates = value.get("learning_rate")
        for name in rates if isinstance(rates, Mapping) else ():
            if name not in METHODS:
                raise UserError(f"train.learning_rate: unknown method {name!r}{nearest(name, METHODS)}")
        return value

    def __init__(self, **values: Any) -> None:
        self._fill(values, Lines(Path("RunConfig"), None), {})

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a run file and put settings over it.

        Relative `model`, `data_dir` and `output` start at the file's folder; given as an override, where the command
        was typed.

        Args:
            path: of the file.
            overrides: `key.subkey=value`, the values parsed as YAML.

        Raises:
            UserError: no such file, text that does not parse, an unknown key or a value out of range; with file and
                line, and the nearest known key.
        """
        path = Path(path)
        values, lines = read_yaml(path)
        values.setdefault("base_dir", str(path.parent.resolve()))
        set_here: dict[tuple[str, ...], str] = {}
        for override in overrides:
            keys, value = _parse_override(override)
            _put(values, keys, value, override)
            set_here[keys] = override
        config = cls.__new__(cls)
        config._fill(values, lines, set_here)
        if (path.parent / "base.json").exists():  # a run's folder, which may be somebody else's
            config.trust_code = False
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

    def _fill(self, values: dict[str, Any], lines: Lines, set_here: Mapping[tuple[str, ...], str]) -> None:
        """Check and take the values, paths from where they start; UserError with the place of the first wrong one."""
        try:
            self.__pydantic_validator__.validate_python(values, self_instance=self)
        except ValidationError as error:
            raise UserError(_first_problem(error, lines, set_here)) from error
        self.base_dir = self._path("base_dir", Path.cwd(), lines, set_here)
        for key in ("model", "data_dir", "output"):
            start = Path() if (key,) in set_here else self.base_dir
            written = getattr(self, key)
            if written is None or written == "nano":
                continue
            found = self._path(key, start, lines, set_here)
            if key != "model" or found.is_dir() or written.startswith((".", "~", os.sep)):  # else a name
                setattr(self, key, str(found if key == "output" else found.resolve()))
        self._trained_on(lines, set_here)

    def _trained_on(self, lines: Lines, set_here: Mapping[tuple[str, ...], str]) -> None:
        """The method of an adapter that is trained on: its path from where paths start, and its name with it, so that
        the run can be read when the adapter has gone."""
        if not isinstance(self.method, dict) or "adapter" not in self.method:
            return
        start = Path() if ("method", "adapter") in set_here else self.base_dir
        try:
            given = {**self.method, "adapter": str(user_path(str(self.method["adapter"]), start).resolve())}
            self.method = choose_method(given).spec
        except UserError as error:
            raise UserError(f"{_where(['method'], lines, set_here)}: {error}") from None

    def _path(self, key: str, start: Path, lines: Lines, set_here: Mapping[tuple[str, ...], str]) -> Path:
        try:
            return user_path(getattr(self, key), start)
        except UserError as error:
            raise UserError(f"{_where([key], lines, set_here)}: {key}: {error}") from None

    def moved_to(self, folder: Path) -> "RunConfig":
        """The same with its files below another folder than `base_dir`, by the paths that they had from there; whatever
        was outside of it, in that folder by its name. The base stays where it is unless it is there too."""

        def moved(written: Any) -> Any:
            if not isinstance(written, str) or not (path := user_path(written)).is_absolute():
                return written
            beside = path.relative_to(self.base_dir) if path.is_relative_to(self.base_dir) else Path(path.name)
            return str(folder / beside)

        paths = ("task", "eval", "validation", "test", "data_dir")
        tasks = [
            {key: moved(value) if key in paths else value for key, value in task.items()}
            if isinstance(task, dict)
            else moved(task)
            for task in self.tasks
        ]
        there = moved(self.model)
        model = there if Path(there).is_dir() else self.model
        changed = {"base_dir": folder, "tasks": tasks, "data_dir": moved(self.data_dir), "model": model}
        return self.model_copy(update=changed)

    @property
    def method_name(self) -> str:
        """The method's name, "weave" for bare knobs."""
        return choose_method(self.method).name

    def load_tasks(self) -> list[Task]:
        """The tasks of the run file, in the order of their ids."""
        return load_tasks(self.tasks, self.base_dir, self.data_dir, self.chat_template, self.seed, self.trust_code)

    def load_forgetting(self, tasks: Sequence[Task], entries: Sequence[Any] | None = None) -> list[Task]:
        """What the run is not trained for and is scored on.

        Args:
            tasks: that it is trained on.
            entries: in the place of the run file's `eval.forgetting`.
        """
        trained = {task.name: task.origin for task in tasks}
        where = self.base_dir, self.data_dir, self.chat_template, self.seed, self.trust_code
        return load_untrained(self.eval.forgetting if entries is None else entries, trained, *where)

    def as_dict(self) -> dict[str, Any]:
        """The run file as plain values, defaults included."""
        return self.model_dump(mode="json")

    def save(self, path: Path) -> None:
        """Write the run file to `path`, defaults included; `load` gives the same configuration back."""
        write_text(path, yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True))


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
    # `method: rlora` with method.r=8 over it, `mixture: equal` with mixture.total=100
    for section, name, default in (("method", "name", "rlora"), ("mixture", "strategy", "proportional")):
        if parents == [section] and isinstance(values.get(section, default), str):
            values[section] = {name: values.get(section, default)}
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {shown(override)}: {parent!r} is not a mapping in the run file")
    values[last] = value


def _first_problem(error: ValidationError, lines: Lines, set_here: Mapping[tuple[str, ...], str]) -> str:
    """The first thing that pydantic found wrong, as one line with its place."""
    problems = error.errors()
    # A key that is misspelt is both missing and unknown: the second tells more.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    place = [key for key in problem["loc"] if key not in ("str", "dict[str,any]")]
    words = [str(key) for key in place]
    where = _where(place, lines, set_here)
    name = ".".join(words)
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key {name!r}{nearest(str(place[-1]), _known_beside(place))}"
    if problem["type"] == "missing":
        return f"{lines.path}: the key {name!r} is missing"
    cause = (problem.get("ctx") or {}).get("error")
    if isinstance(cause, UserError) and place[0] in ("tasks", "eval"):
        return f"{where}: {cause}"
    if isinstance(cause, UserError):  # from a method or a training argument: the message names the field
        return f"{_place_of_field(str(cause), str(place[0]), lines, set_here)}: {cause}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {name}: {message}, got {shown(problem['input'])}"


def _where(place: Sequence[Any], lines: Lines, set_here: Mapping[tuple[str, ...], str]) -> str:
    """The override, or the line of the file, in which the value at a place stands."""
    words = [str(key) for key in place]
    override = next((t for keys, t in set_here.items() if all(map(str.__eq__, keys, words))), None)
    return f"--set {shown(override)}" if override else lines.of(place)


def _known_beside(place: Sequence[Any]) -> Iterable[str]:
    models: dict[str, type[BaseModel]] = {"mixture": MixtureConfig, "eval": EvalConfig}
    known = models.get(str(place[0]), RunConfig) if len(place) > 1 else RunConfig
    return [key for key in known.model_fields if key != "base_dir"]


def _place_of_field(message: str, section: str, lines: Lines, set_here: Mapping[tuple[str, ...], str]) -> str:
    """Where the field of `section` that a message speaks of was set: an override, or a line of the file."""
    words = message.replace(":", " ").replace("'", " ").replace(f"{section}.", "").split()
    if message.startswith("unknown method"):
        words = ["name"]
    for word in words:
        if (section, word) in set_here:
            return f"--set {shown(set_here[section, word])}"
        if lines.of([section, word]) != lines.of([section]):
            return lines.of([section, word])
    return _where([section], lines, set_here)
