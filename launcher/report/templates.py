"""The HTML pages of runs and sweeps as jinja2 templates, the *.html.j2 files beside this module."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=PackageLoader("shardtune.launcher.report", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render_template(template: str, **values: Any) -> str:
    """The page that a template such as run.html.j2 makes of these values, which it escapes."""
    return _ENVIRONMENT.get_template(template).render(values)
