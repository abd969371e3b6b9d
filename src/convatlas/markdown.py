"""Markdown reports from templates.

Text from files and folders is escaped by the filters `cell` and `printable`.
"""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from convatlas.errors import printable


@cache
def markdown_template(package: str, name: str) -> Template:
    """A template beside the modules of `package`; filters `cell`, `number` and `printable`."""
    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=False,  # noqa: S701  Markdown, not HTML: `cell` escapes what needs it
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": table_cell, "number": format, "printable": printable}
    return environment.get_template(name)


def table_cell(text: str) -> str:
    """Text as one cell of a Markdown table."""
    return printable(text).replace("|", "\\|").replace("<", "&lt;")
