"""`models`: the networks of the atlas."""

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional

from convatlas.cli.arguments import Json, arg
from convatlas.cli.output import print_json, print_table
from convatlas.errors import UserError


@dataclass
class Models:
    """List the networks: paper, year, input, parameters, multiply-adds, the paper's error, editions."""

    pattern: Annotated[
        Positional[str], arg(metavar="PATTERN", help="A shell pattern, such as 'resnet*'.")
    ] = "*"
    json: Json = False

    def __call__(self) -> None:
        rows = self._rows()
        if self.json:
            print_json(rows)
            return
        if not rows:
            raise UserError(f"no network matches {self.pattern!r}: convatlas models lists them all")
        columns = ("name", "year", "input", "parameters", "multiply-adds", "editions", "the paper's error")
        cells = [
            (
                row["name"],
                row["year"],
                "x".join(map(str, row["input"])),
                f"{row['params']:,}",
                f"{row['macs']:,}",
                ", ".join(row["editions"][1:]) or "-",
                row["headline"],
            )
            for row in rows
        ]
        print_table(columns, cells, right=("parameters", "multiply-adds"))
        count = "1 network" if len(rows) == 1 else f"{len(rows)} networks"
        print(
            f"{count} as printed; multiply-adds of one image, 1000 classes or the data set's own. Editions "
            "besides paper."
        )

    def _rows(self) -> list[dict[str, Any]]:
        from convatlas import models

        rows = []
        for name in models.list_models(self.pattern):
            entry = models.get_entry(name)
            counts = models.golden_counts(name)
            rows.append(
                {
                    "name": name,
                    "paper": entry.paper,
                    "year": entry.year,
                    "source": entry.source,
                    "input": entry.input,
                    "params": counts["params"],
                    "macs": counts["macs"],
                    "headline": entry.headline,
                    "task": entry.task,
                    "editions": list(entry.editions),
                }
            )
        return rows
