"""`bench`: speed beside what a user would run otherwise."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json, positive
from convatlas.cli.output import display, print_json, print_table


@dataclass
class Bench:
    """Measure speed beside what a user would run otherwise, each row in a process of its own."""

    kind: Annotated[
        Positional[Literal["inference", "train", "data"]], arg(help="Classifying images, a training step, loading photographs.")
    ]
    model: Annotated[
        Positional[str], arg(metavar="MODEL", help="The network; default resnet50 for inference, resnet20_cifar for train.")
    ] = ""
    batch: Annotated[int | None, arg(metavar="N", help="Images a training step; default the quick recipe's.")] = None
    rounds: Annotated[int, arg(help="Each row is measured this often; the median counts.")] = 5
    compile: Annotated[bool, arg(help="Also measure compiled; compiling takes about a minute a round.")] = False
    row: Annotated[str | None, arg(metavar="NAME", help="Measure this one row in this process.")] = field(default=None)
    photos: Annotated[Path | None, arg(metavar="FOLDER", help="For --row: the photographs that the command has made.")] = None
    json: Json = False

    def __call__(self) -> None:
        say = display(True).say
        if self.kind == "inference":
            from convatlas.benchmark import inference as inference

            model = self.model or "resnet50"
            if self.row is not None:
                print_json(inference.measure_row(model, self.row, self.photos or Path()))
                return
            document = inference.benchmark_inference(model, self.rounds, self.compile, say)
            what = f"{model}, {document['input']}, batches of {document['batch']}; baseline is {document['baseline']}"
        elif self.kind == "data":
            from convatlas.benchmark import data as loading

            if self.row is not None:
                print_json(loading.measure_row(self.row, self.photos or Path()))
                return
            document = loading.benchmark_data(self.rounds, say)
            what = f"{document['images']} JPEGs of {document['bytes_per_image'] / 1e3:,.0f} kB; baseline is {document['baseline']}"
        else:
            from convatlas.benchmark import training as training

            model = self.model or "resnet20_cifar"
            if self.row is not None:
                print_json(training.measure_row(model, self.batch, self.row))
                return
            batch = None if self.batch is None else int(positive("--batch", self.batch))
            document = training.benchmark_training(model, batch, self.rounds, self.compile, say)
            what = f"{model}, a training step of {document['batch']} images {document['input']}; baseline is {document['baseline']}"
        if self.json:
            print_json(document)
            return
        from convatlas.benchmark.harness import table_cells

        print(f"{what}; {document['machine']}")
        figures: tuple[str, ...] = ("images/s", "to baseline", "to baseline-tuned", "peak MB")
        rows = table_cells(document["rows"])
        if self.kind == "train":
            figures += ("% of matrix product",)
            rows = [(*row, f"{found['share']:.0f}") for row, found in zip(rows, document["rows"], strict=True)]
        print_table(("row", *figures), rows, right=figures)
