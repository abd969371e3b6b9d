"""`models`: the networks of the atlas."""

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json
from convatlas.cli.output import print_json, print_table
from convatlas.errors import UserError


@dataclass
class Models:
    """List the networks: name, paper, year, input, parameters, multiply-adds, the paper's own error, editions."""

    pattern: Annotated[Positional[str], arg(metavar="PATTERN", help="A shell pattern, such as 'resnet*'.")] = "*"
    json: Json = False

    def __call__(self) -> None:
        from convatlas import models

        rows: list[dict[str, Any]] = []
        for name in models.list_models(self.pattern):
            entry, line = models.get_entry(name), models.counts(name)
            facts = {"name": name, "paper": entry.paper, "year": entry.year, "source": entry.source, "input": entry.input}
            facts |= {"params": line["params"], "macs": line["macs"], "headline": entry.headline, "task": entry.task}
            rows.append(facts | {"editions": list(entry.editions)})
        if self.json:
            print_json(rows)
        elif not rows:
            raise UserError(f"no network matches {self.pattern!r}: convatlas models lists them all")
        else:
            columns = ("name", "year", "input", "parameters", "multiply-adds", "editions", "the paper's error")
            cells = []
            for r in rows:
                shape, others = "x".join(map(str, r["input"])), ", ".join(r["editions"][1:]) or "-"
                cells.append((r["name"], r["year"], shape, f"{r['params']:,}", f"{r['macs']:,}", others, r["headline"]))
            print_table(columns, cells, right=("parameters", "multiply-adds"))
            count = f"{len(rows)} network{'s' * (len(rows) != 1)}"
            print(f"{count} as printed; multiply-adds of one image, 1000 classes or the data set's own. Editions besides paper.")
