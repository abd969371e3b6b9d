"""Markdown reports from templates.

Text from files and folders is escaped by the filter `cell`.
"""

import re
from functools import cache
from typing import TYPE_CHECKING

from convatlas.errors import printable

if TYPE_CHECKING:
    from jinja2 import Template

# Punctuation that can be markup where it stands. A name with underscores inside stays as it is, and so do
# `folder:PATH` and `runs/a.b`.
_MARKUP = re.compile(
    r"[\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_])"  # emphasis, code, links, HTML, cells, entities, math
    r"|:(?=//)|(?<=www)\.|@"  # GitHub makes links of bare addresses
    r"|^[#+=-]|^\d{1,9}[.)](?=\s|$)"  # headings, lists
)


@cache
def markdown_template(package: str, name: str) -> "Template":
    """A template beside the modules of `package`; filters `cell` (`markdown_text`), `number`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=False,  # noqa: S701  Markdown, not HTML: `cell` escapes what needs it
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": markdown_text, "number": format}
    return environment.get_template(name)


def markdown_text(text: object) -> str:
    """Text as one line of a Markdown document, in a table or outside, none of it markup.

    A backslash makes a punctuation character literal (CommonMark 0.31, sec. 2.4).
    """
    return _MARKUP.sub(_escape, printable(text))


def _escape(match: re.Match[str]) -> str:
    return "&#64;" if match[0] == "@" else f"{match[0][:-1]}\\{match[0][-1]}"
