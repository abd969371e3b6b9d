"""The table of networks: every name with its counts, from the golden file that the tests check the networks
against. `make docs` calls this."""

from pathlib import Path
from typing import Any

from convatlas import models

PAGE = Path(__file__).parent / "generated" / "networks.md"
HEAD = """# The networks

Made by `make docs` from `src/convatlas/models/golden.json`, against which the tests check every network.

Parameters: the trainable ones, including auxiliary heads. Multiply-adds: of convolutions, transposed
convolutions and linear layers, for one image of the given size, without auxiliary heads. Editions are named
after the library whose numbers they reproduce; each network's file lists the differences of its editions.
Activations, normalisations, poolings and heads of each can be swapped by edits: [edits.md](../edits.md).

"""
NUMERIC_COLUMNS = ("parameters", "multiply-adds")


def page() -> str:
    networks = table(
        ("network", "paper", "input", "parameters", "multiply-adds", "editions", "published error"),
        [network_row(name) for name in models.list_models()],
    )
    variants = table(
        ("network", "edition", "arguments", "input", "parameters", "multiply-adds", "source"),
        [
            variant_row(line)
            for line in models.golden_records()
            if line is not models.golden_counts(line["model"])
        ],
    )
    text = "\n## Variants\n\nArguments, editions and input sizes whose counts are tested too.\n\n"
    return HEAD + networks + text + variants


def network_row(name: str) -> tuple[str, ...]:
    entry = models.get_entry(name)
    line = models.golden_counts(name)
    return (
        f"`{name}`",
        f"{entry.paper} ({entry.year}); {line['source']}",
        "x".join(map(str, entry.input)),
        f"{line['params']:,}",
        f"{line['macs']:,}",
        ", ".join(entry.editions[1:]),
        entry.headline,
    )


def variant_row(line: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"`{line['model']}`",
        line.get("edition", ""),
        ", ".join(f"`{name}={value!r}`" for name, value in line["arguments"].items()),
        "x".join(map(str, line["input"])),
        f"{line['params']:,}",
        f"{line['macs']:,}",
        line["source"],
    )


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    alignment = tuple("---:" if column in NUMERIC_COLUMNS else "---" for column in columns)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [columns, alignment, *rows])


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
