"""The HTML pages of runs and sweeps as jinja2 templates, the *.html.j2 files beside this module.

A page is one file: its style and its script are in it, and its policy lets a browser load nothing else.
"""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_ENVIRONMENT = Environment(
    loader=PackageLoader("shardtune.launcher.report", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_VISIBLE: dict[int, int | str] = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"},
    0x7F: 0x2421,
    **{code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029, 0xFEFF)},
    **{code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}
"""Characters that a page cannot hold, or that would end lines or turn texts around in it -> what is shown."""


def render_template(template: str, **values: Any) -> str:
    """The page that a template such as run.html.j2 makes of these values, which it escapes."""
    script = _asset("charts.js")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    page = _ENVIRONMENT.get_template(template).render(
        values, style=Markup(_asset("page.css")), script=Markup(script), script_digest=digest
    )
    return visible(page)


def visible(text: str) -> str:
    """The text without characters that cannot be written or seen, for which others stand."""
    # A lone surrogate, as half of a character in JSON gives it, has no UTF-8.
    return text.translate(_VISIBLE).encode("utf-8", "backslashreplace").decode("utf-8")


@cache
def _asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
