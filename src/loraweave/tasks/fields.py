"""Finds what a task's templates would print as the word "None": fields that a document lacks, or that are null."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Template, Undefined, UndefinedError

from loraweave.errors import UserError, nearest, shown
from loraweave.tasks.rows import FileRows
from loraweave.tasks.sandbox import compiled, reason_of, sandbox_tasks

TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice", "description", "gen_prefix")
ANSWERS = ("doc_to_target", "doc_to_choice", "completion", "choices")
PLAIN_NAMES = ("doc_to_text", "prompt", *ANSWERS)
"""Templates that may be a field's bare name."""


def field_problems(config: Any, rows: FileRows) -> Iterator[str]:
    """What `check_task_document` says of the rows of a file, a line for each that it refuses."""
    for index, row in enumerate(rows.rows):
        try:
            check_task_document(config, row, rows.place(index))
        except UserError as error:
            yield str(error)


def check_task_document(config: Any, document: Mapping[str, Any], place: str) -> None:
    """`check_document` with the templates of `config`, an lm-eval task configuration."""
    templates = {key: value for key in TEMPLATES if isinstance(value := getattr(config, key), str)}
    check_document(templates, document, place, str(config.metadata["config_source"]))


def check_document(templates: Mapping[str, str], document: Mapping[str, Any], place: str, of: str) -> None:
    """Check that a document has what templates print.

    A template may ask whether a field is there (`{% if context %}`, `{{context or ''}}`), but not print one that is
    missing or null. Formats differ: in CSV an empty cell is null, and Parquet and Arrow have nulls of their own.

    Args:
        templates: by their names.
        document: the fields.
        place: where the document stands.
        of: whose the templates are.

    Raises:
        UserError: naming place, field and template, and what to write where the field may be empty.
    """
    for key, template in templates.items():
        if not template:
            continue
        fields = used_fields(template, f"{of}, {key}", plain_name=key in PLAIN_NAMES)
        if not any(_holds_null(document.get(field)) for field in fields):
            continue
        empty = template if fields == (template,) else _printed_null(template, document, fields)
        if empty is None:
            continue
        known = [field for field in document if document[field] is not None]
        top = empty.partition(".")[0]
        is_null = " (it is empty or null)" if top in document else ""
        cure = "" if key in ANSWERS else f"; where it may be empty, write {{{{{empty} or ''}}}} there"
        raise UserError(
            f"{place}: lacks the field {empty!r} that {key} uses{is_null}; "
            f"fields here: {', '.join(map(repr, known)) or 'none'}{nearest(empty, known)}{cure}"
        )


def used_fields(template: str, of: str, plain_name: bool) -> tuple[str, ...]:
    """The names that the template reads; `of`: whose it is. lm-eval also takes a bare field name for a template.

    Raises:
        UserError: it does not parse.
    """
    if plain_name and template.isidentifier():
        return (template,)
    try:
        return _undeclared(template)
    except Exception as error:  # beside Jinja's own: numbers of thousands of digits, nesting without end
        reason = getattr(error, "message", None) or reason_of(error)
        raise UserError(f"{of}: the template {shown(template)} does not parse: {reason}") from None


@lru_cache(maxsize=256)
def _undeclared(template: str) -> tuple[str, ...]:
    from jinja2 import meta
    from lm_eval import utils

    return tuple(sorted(meta.find_undeclared_variables(utils.env.parse(template))))


def with_row(document: Mapping[str, Any], template: str) -> Mapping[str, Any]:
    """A document with itself as `row`, for a template that reads that: `{{row["Customer message"]}}` is a field whose
    name is more than a word. Where a field is called so, it is that."""
    reads = "row" in template and not template.isidentifier() and "row" in _undeclared(template)
    return {**document, "row": document} if reads and "row" not in document else document


def rendered(template: str, document: Mapping[str, Any], place: str) -> str:
    """The text that a template, or a field's bare name, makes of a document (`with_row`); in the sandbox.

    Raises:
        UserError: the template fails; `place` says whose it is, and where.
    """
    from lm_eval import utils

    if template.isidentifier():
        return str(document.get(template, ""))
    sandbox_tasks()
    document = with_row(document, template)
    try:  # a field that only other rows have may be asked for, and is null here
        return str(utils.apply_template(template, {name: document.get(name) for name in _undeclared(template)}))
    except Exception as error:  # a template may fail like any other program
        raise UserError(f"{place}: the template fails here: {reason_of(error)}") from error


def _holds_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_null, value.values()))
    return any(map(_holds_null, value)) if isinstance(value, (list, tuple)) else value is None


class _PrintedError(Exception):
    """Carries the name of the field that was printed."""


class _Null:
    """Stands in the place of a null, may be tested, and says its name where it is printed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        raise _PrintedError(self.name)

    __repr__ = __str__  # where a list or mapping is printed whole

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, _Null)

    def __hash__(self) -> int:
        return hash(None)


class _Missing(Undefined):
    """A field that is not there: may be tested, not printed."""

    def __str__(self) -> str:
        raise _PrintedError(self._undefined_name)

    __repr__ = __str__


def _named(value: Any, name: str) -> Any:
    """A value with its nulls as `_Null`."""
    if isinstance(value, Mapping):
        ways = {key: f".{key}" if str(key).isidentifier() else f"[{key!r}]" for key in value}
        return {key: _named(part, f"{name}{ways[key]}") for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_named(part, f"{name}[{index}]") for index, part in enumerate(value)]
    return _Null(name) if value is None else value


def _printed_null(template: str, document: Mapping[str, Any], fields: tuple[str, ...]) -> str | None:
    """The first missing or null field that the template prints."""
    given = {field: _named(document[field], field) for field in fields if field in document}
    try:
        _testing(template).render(**given)
    except _PrintedError as error:
        return str(error)
    except UndefinedError:  # a field of a field that is missing
        return next(field for field in fields if _holds_null(document.get(field)))
    except Exception:  # the template cannot do what it does with a null: told where it is rendered
        return None
    return None


@lru_cache(maxsize=64)
def _testing(template: str) -> Template:
    """The template in lm-eval's environment, where nulls are told apart from their word."""
    from lm_eval import utils

    environment = utils.env.overlay(undefined=_Missing)  # has lm-eval's filters
    environment.tests = {**environment.tests, "none": lambda value: value is None or isinstance(value, _Null)}
    return compiled(environment, template)
