"""The networks' table: every name with its counts, from the golden file that the tests hold them to. `make docs` calls this."""

from pathlib import Path
from typing import Any

from convatlas import models

PAGE = Path(__file__).parent / "generated" / "networks.md"
HEAD = """# The networks

Made by `make docs` from `src/convatlas/models/golden.json`, to which the tests hold every network.

Parameters: trainable ones, auxiliary heads included. Multiply-adds: of convolutions, transposed convolutions and linear layers, one
image of the given size, auxiliary heads left out. Editions are named for the library whose numbers they reproduce; each network's
file says what its editions change.

"""


def page() -> str:
    text = HEAD + table(
        ("network", "paper", "input", "parameters", "multiply-adds", "editions", "the paper's own error"),
        [network(name) for name in models.list_models()],
    )
    text += "\n## Other forms\n\nArguments, editions and sizes whose counts are held too.\n\n"
    text += table(
        ("network", "edition", "arguments", "input", "parameters", "multiply-adds", "source"),
        [form(line) for line in models.golden() if line is not models.counts(line["model"])],
    )
    return text


def network(name: str) -> tuple[str, ...]:
    entry, line = models.get_entry(name), models.counts(name)
    return (
        f"`{name}`",
        f"{entry.paper} ({entry.year}); {line['source']}",
        "x".join(map(str, entry.input)),
        f"{line['params']:,}",
        f"{line['macs']:,}",
        ", ".join(entry.editions[1:]),
        entry.headline,
    )


def form(line: dict[str, Any]) -> tuple[str, ...]:
    arguments = ", ".join(f"`{name}={value!r}`" for name, value in line["arguments"].items())
    size = "x".join(map(str, line["input"]))
    return (f"`{line['model']}`", line.get("edition", ""), arguments, size, f"{line['params']:,}", f"{line['macs']:,}", line["source"])


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---:" if column in ("parameters", "multiply-adds") else "---" for column in columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
