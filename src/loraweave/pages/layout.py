"""Pages from jinja templates that extend `pages/base.html`: one file each, with the style sheet in it."""

from functools import lru_cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined

from loraweave.pages.palette import variables


def render(package: str, template: str, content: dict[str, Any]) -> str:
    """The page that `template`, a file of `package`, makes of `content`.

    The template extends `pages/base.html` and may import macros from `pages/parts.html`. Everything in `content` is
    escaped unless it is `Markup`.

    Raises:
        jinja2.UndefinedError: the template names something that `content` lacks.
    """
    return _environment(package).get_template(template).render(content)


@lru_cache
def _environment(package: str) -> Environment:
    """Where the templates of a package are read, each once."""
    loader = ChoiceLoader([PackageLoader(package, "."), PrefixLoader({"pages": PackageLoader("loraweave.pages", ".")})])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(colours=variables())
    return environment
