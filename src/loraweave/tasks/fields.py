"""Finds the rows that lack a field which a task's templates print, before lm-eval prints "None" in its place."""

from typing import Any

from loraweave.errors import UserError, nearest
from loraweave.tasks.files import FileRows
from loraweave.tasks.sandbox import compiled, reason_of

TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice", "description", "gen_prefix")


def check_fields(config: Any, rows: FileRows) -> None:
    """Check that every row has what the templates of `config` (an lm-eval task configuration) print.

    A template may ask whether a field is there (`{% if context %}`), but not print one that is missing or null.

    Raises:
        UserError: naming file, line, field and template.
    """
    for key in TEMPLATES:
        template = getattr(config, key)
        if not isinstance(template, str) or not template:
            continue
        place = f"{config.metadata['config_source']}, {key}"
        fields = _used_fields(template, place, plain_name=key in ("doc_to_text", "doc_to_target", "doc_to_choice"))
        for index, row in enumerate(rows.rows):
            missing = [field for field in fields if row.get(field) is None]
            if missing and _prints_missing(template, row, fields, place):
                known = [field for field in row if row[field] is not None]
                is_null = " (it is null)" if missing[0] in row else ""
                raise UserError(
                    f"{rows.place(index)}: lacks the field {missing[0]!r} that {key} uses{is_null}; "
                    f"fields here: {', '.join(map(repr, known)) or 'none'}{nearest(missing[0], known)}"
                )


def _used_fields(template: str, place: str, plain_name: bool) -> list[str]:
    """The names that the template at `place` reads. lm-eval also takes a bare field name instead of a template."""
    from jinja2 import meta
    from lm_eval import utils

    if plain_name and template.isidentifier():
        return [template]
    try:
        return sorted(meta.find_undeclared_variables(utils.env.parse(template)))
    except Exception as error:  # beside Jinja's own: numbers of thousands of digits, nesting without end
        reason = getattr(error, "message", None) or reason_of(error)
        shown = repr(template if len(template) <= 200 else f"{template[:197]}...")
        raise UserError(f"{place}: the template {shown} does not parse: {reason}") from None


def _prints_missing(template: str, row: dict[str, Any], fields: list[str], place: str) -> bool:
    if fields == [template]:
        return True
    from jinja2 import Undefined, UndefinedError
    from lm_eval import utils

    class MayBeTestedNotPrinted(Undefined):
        __str__ = Undefined._fail_with_undefined_error

    present = {field: value for field, value in row.items() if value is not None}
    environment = utils.env.overlay(undefined=MayBeTestedNotPrinted)  # has lm-eval's filters
    try:
        compiled(environment, template).render(**present)
    except UndefinedError:
        return True
    except Exception as error:
        raise UserError(f"{place}: {reason_of(error)}") from error
    return False
