"""What commands share in saying things: tables, paragraphs, JSON, files written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convatlas.errors import printable


def write(file: Path, data: bytes, quiet: bool = False) -> None:
    from convatlas.storage.atomic import atomic_write

    atomic_write(file, data)
    if not quiet:
        print(f"wrote {printable(file)}")


def paragraph(text: str, indent: int) -> None:
    import textwrap

    print(
        textwrap.fill(
            text, 120, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
    )


def print_json(document: Any) -> None:
    import msgspec

    print(msgspec.json.encode(document).decode(), flush=True)


def print_table(
    columns: tuple[str, ...],
    rows: list[tuple[Any, ...]],
    right: tuple[str, ...] = (),
    bold: Sequence[bool] = (),
) -> None:
    """`bold`: of each row, whether a terminal shows it in bold; by default none."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(*map(str, row), style="bold" if number < len(bold) and bold[number] else None)
    console = Console(markup=False, highlight=False)
    console.width = Measurement.get(
        console, console.options.update(max_width=1000), table
    ).maximum  # names are never cut
    console.print(table)


def display(quiet_stdout: bool) -> Any:
    """The display of a training; torch is imported first here."""
    from convatlas.training.progress import create_display

    return create_display(quiet_stdout)
