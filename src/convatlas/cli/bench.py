"""`bench`: speed beside what a user would run otherwise."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from convatlas.cli.arguments import Json, arg
from convatlas.cli.output import display, paragraph, print_json, print_table
from convatlas.errors import UsageError, printable


@dataclass
class Bench:
    """Measure speed beside what a user would run otherwise, each row in a process of its own."""

    kind: Annotated[
        Positional[Literal["inference", "train", "data"]],
        arg(help="Classifying images, a training step, loading photographs."),
    ]
    model: Annotated[
        Positional[str],
        arg(metavar="MODEL", help="The network; default resnet50 for inference, resnet20_cifar for train."),
    ] = ""
    batch: Annotated[
        int | None, arg(metavar="N", help="Images a training step; default the quick recipe's.")
    ] = None
    rounds: Annotated[
        int | None,
        arg(metavar="N", help="How often each row is measured; the median counts. Default: for 2 minutes."),
    ] = None
    compile: Annotated[bool, arg(help="Also measure compiled; compiling takes about a minute a round.")] = (
        False
    )
    beside: Annotated[bool, arg(help="For train: two trainings at once, beside one alone.")] = False
    row: Annotated[str | None, arg(metavar="NAME", help="Measure this one row in this process.")] = field(
        default=None
    )
    seconds: Annotated[
        float | None, arg(metavar="S", help="For train: print when the steps of S seconds end.")
    ] = None
    photos: Annotated[Path | None, arg(metavar="FOLDER", help="For --row: the photographs to load.")] = None
    json: Json = False

    def __call__(self) -> int:
        run: Callable[[], tuple[dict[str, Any], str]] = {
            "inference": self._inference,
            "train": self._training,
            "data": self._data,
        }[self.kind]
        from convatlas.benchmark.harness import exit_code

        if self.kind != "train" and (self.beside or self.seconds is not None):
            option = "--beside" if self.beside else "--seconds"
            raise UsageError(f"{option} is an option of bench train, not of bench {self.kind}")
        document, title = run()
        if self.json or self.row is not None or self.seconds is not None:
            print_json(document)
        else:
            self._print(document, title)
        return exit_code(document.get("rows", ()))

    def _inference(self) -> tuple[dict[str, Any], str]:
        from convatlas.benchmark import inference

        model = self.model or "resnet50"
        if self.row is not None:
            return inference.measure_row(model, self.row, self.photos or Path()), ""
        document = inference.benchmark_inference(model, self.rounds, self.compile, display(True).say)
        size = f"{document['input']}, batches of {document['batch']}"
        return document, f"{model}, {size}; baseline is {document['baseline']}"

    def _training(self) -> tuple[dict[str, Any], str]:
        from convatlas.benchmark import training
        from convatlas.benchmark.sharing import benchmark_sharing
        from convatlas.training.bounds import check_option

        model = self.model or "resnet20_cifar"
        check_option("--batch", self.batch, "recipe.batch")
        if self.seconds is not None:
            return training.step_times(model, self.batch, self.seconds), ""
        if self.row is not None:
            return training.measure_row(model, self.batch, self.row), ""
        if self.beside:
            document = benchmark_sharing(model, self.batch, self.rounds, display(True).say)
            return document, f"{model}, training in batches of {document['batch']}, all trainings together"
        document = training.benchmark_training(
            model, self.batch, self.rounds, self.compile, display(True).say
        )
        step = f"a training step of {document['batch']} images {document['input']}"
        return document, f"{model}, {step}; baseline is {document['baseline']}"

    def _data(self) -> tuple[dict[str, Any], str]:
        from convatlas.benchmark import data

        if self.row is not None:
            return data.measure_row(self.row, self.photos or Path()), ""
        document = data.benchmark_data(self.rounds, display(True).say)
        kilobytes = document["bytes_per_image"] / 1e3
        return (
            document,
            f"{document['images']} JPEGs of {kilobytes:,.0f} kB; baseline is {document['baseline']}",
        )

    def _print(self, document: dict[str, Any], title: str) -> None:
        from convatlas.benchmark.harness import table_cells

        print(f"{title}; {document['machine']}")
        columns: tuple[str, ...] = (
            "images/s",
            "lowest to highest",
            "to baseline",
            "to baseline-tuned",
            "peak MB",
        )
        cells = table_cells(document["rows"])
        if self.beside:
            columns, cells = (*columns[:2], "to alone"), [row[:4] for row in cells]
        else:
            titles = {"share": "% of matrix product", "floor_share": "% of floor"}
            titles = {name: title for name, title in titles.items() if name in document["rows"][0]}
            columns += tuple(titles.values())
            shares = [
                tuple("-" if row[name] is None else f"{row[name]:.0f}" for name in titles)
                for row in document["rows"]
            ]
            cells = [(*row, *share) for row, share in zip(cells, shares, strict=True)]
        print_table(("row", *columns), cells, right=columns)
        if "floor" in document:
            from convatlas.benchmark.floor import describe_floor

            paragraph(describe_floor(document), 0)
        for row in document["rows"]:
            if "error" in row:
                paragraph(f"{row['name']}: {printable(row['error'])}", 2)
