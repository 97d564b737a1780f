"""The templates of the pages, and what makes HTML of them."""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lrtune.format import limited
from lrtune.results.palette import look

_LOADER = PackageLoader("lrtune.results")


def render(template: str, **context: Any) -> str:
    """A template with its values: plain text is escaped, and cut where it is very long."""
    return _ENVIRONMENT.get_template(template).render(**context)


def _shown(value: object) -> object:
    return value if isinstance(value, Markup) else limited(str(value))


def _unbroken(text: str) -> Markup:
    """A sentence whose options and percentages no line breaks."""
    parts = re.split(r"(--[\w-]+|\d+ %)", limited(text))
    return Markup("").join(
        Markup('<span class="option">{}</span>').format(part) if at % 2 else part
        for at, part in enumerate(parts)
    )


def _source(name: str) -> Markup:
    """A style sheet or a script of ours, as it is."""
    return Markup(_LOADER.get_source(_ENVIRONMENT, name)[0])


_ENVIRONMENT = Environment(
    loader=_LOADER,
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["colour"] = lambda family: look(family).colour
_ENVIRONMENT.filters["unbroken"] = _unbroken
_ENVIRONMENT.globals["source"] = _source
