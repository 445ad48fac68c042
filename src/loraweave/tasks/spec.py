"""What a person may write for one task in a run file."""

from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from loraweave.errors import UserError, nearest, shown

A_NAME = "one line of whole characters, 200 bytes at most"

OnBadRow = Literal["error", "skip"]
SplitName = Literal["train", "validation", "test"]

FOR_DATA = ("prompt", "completion", "choices", "metric", "subset", "split", "on_bad_row", "eval", "test")
"""Keys that mean nothing for a task that lm-eval knows, or that has a file in its format."""


def is_name(text: str) -> bool:
    """Whether a task may be called so: it stands in tables, in files, and perhaps in the name of one."""
    size = len(text.encode("utf-8", "ignore"))
    whole = size == len(text.encode("utf-8", "surrogatepass"))
    return whole and 0 < size <= 200 and bool(text.strip()) and text not in (".", "..") and text.isprintable()


class HowToLoad(NamedTuple):
    """What holds for all tasks of a run, as `load_tasks` takes it behind their entries."""

    base_dir: Path
    data_dir: str | Path | None = None
    chat_template: bool = False
    seed: int = 0
    trust_code: bool = False
    on_bad_row: OnBadRow = "error"


class TaskSpec(BaseModel):
    """One entry of `tasks:`. A plain string means `task` alone. Relative paths start at the run file's folder."""

    model_config = ConfigDict(extra="forbid")

    task: str = Field(
        min_length=1,
        description="an lm-eval name, a YAML in lm-eval's format, a data file (.jsonl, .json, .csv, .tsv, .parquet, "
        ".arrow or .txt, compressed or not), a pattern of such files, a folder of save_to_disk, or a hub data set",
    )
    name: str | None = Field(None, description="what the task is called in this run; default: its own name")
    prompt: str | None = Field(None, description="for data: the prompt as a template over the columns")
    completion: str | None = Field(None, description="for data: the answer as a template over the columns")
    choices: list[str] | dict[str | int, str] | str | None = Field(
        None,
        description="for data with labels: the names of 0, 1, ...; a mapping from values to names; or a template or "
        "column that gives each row's own",
    )
    metric: str | None = Field(None, description="for data: what scores it, such as exact_match, acc or loss")
    subset: str | None = Field(None, description="for a data set of the hub: which of its configurations")
    split: str | dict[SplitName, str] | None = Field(
        None,
        description="for a data set with splits, of the hub or of save_to_disk: what it calls the one to learn, or "
        "what each of train, validation and test is called",
    )
    on_bad_row: OnBadRow | None = Field(
        None, description="for data: whether a row that cannot be used is an error or skipped; default: the run file's"
    )
    eval: str | None = Field(None, description="for data: the lm-eval name or YAML that scores it")
    validation: str | float | None = Field(
        None, description="a share of the training rows to hold out or, for data, a file"
    )
    test: str | float | None = Field(
        None, description="for data: the file, or the share of its rows, that it is scored on"
    )
    data_dir: str | None = Field(None, description="the folder that a YAML's data_files start at")
    chat_template: bool | None = Field(None, description="prompts go through the tokenizer's chat template")

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str | None) -> str | None:
        if name is not None and (name != name.strip() or any(c in name for c in "/\\,")):
            raise ValueError(f"{shown(name)} cannot be a name: no slash, comma or outer space")
        if name is not None and not is_name(name):
            raise ValueError(f"{shown(name)} cannot be a name: {A_NAME}")
        return name

    @field_validator("choices", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """Names are text, also where YAML takes one for a number; a word that it takes for true or false is lost."""
        names = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        if any(isinstance(name, bool) for name in names):
            raise ValueError("YAML reads yes, no, on and off as true and false: put such names in quotes")
        made = [str(name) if isinstance(name, (int, float)) else name for name in names]
        if isinstance(value, dict):
            return dict(zip(value, made, strict=True))
        return made if isinstance(value, list) else value

    @field_validator("split", mode="before")
    @classmethod
    def _named_once(cls, value: Any) -> Any:
        names = list(value.values()) if isinstance(value, dict) else [value]
        known = not isinstance(value, dict) or (value and {*value} <= {*get_args(SplitName)})
        if value is not None and not (known and all(isinstance(name, str) for name in names)):
            roles = ", ".join(get_args(SplitName))
            raise ValueError(f"{shown(value)}: a split's name is wanted, or a mapping from {roles} to such names")
        if len({*names}) < len(names):
            raise ValueError("what is learned is not to be scored: each of its splits is named once")
        return value

    @field_validator("validation", "test")
    @classmethod
    def _said_once(cls, value: str | float | None, info: ValidationInfo) -> str | float | None:
        split = info.data.get("split")
        if value is not None and isinstance(split, dict) and info.field_name in split:
            raise ValueError("'split' says it too: leave one out")
        return value

    @field_validator("validation", "test", mode="before")
    @classmethod
    def _share_or_file(cls, value: Any) -> Any:
        if isinstance(value, (bool, int)) or (isinstance(value, float) and not 0 < value < 1):
            raise ValueError(f"{value} is neither a file nor a share between 0 and 1")
        return value


def parse_spec(spec: Any, place: str) -> TaskSpec:
    """Read one entry of `tasks:`; `place` says which one it is, for messages.

    Raises:
        UserError: an unknown key (with the nearest known one), a missing key or an unfit value.
    """
    if isinstance(spec, TaskSpec):
        return spec
    if isinstance(spec, str):
        spec = {"task": spec}
    if not isinstance(spec, dict):
        raise UserError(f"{place}: a task is a name, a path or a mapping with 'task', not {type(spec).__name__}")
    try:
        return TaskSpec.model_validate(spec)
    except ValidationError as error:
        raise UserError(f"{place}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    problems = error.errors()
    # A key that is misspelt is both missing and unknown: the second tells more.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    key = str(problem["loc"][0]) if problem["loc"] else "task"
    if problem["type"] == "extra_forbidden":
        known = list(TaskSpec.model_fields)
        return f"unknown key {key!r}{nearest(key, known)}; known keys: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"lacks {key!r}: an lm-eval name, a task YAML or a data file"
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
