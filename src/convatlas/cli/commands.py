"""The commands, one record each: what tyro parses, and what calling it does."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from convatlas.cli.data import Data
from convatlas.cli.evaluated import Eval
from convatlas.cli.exported import Export
from convatlas.cli.output import Json, paragraph, print_json, print_table, write
from convatlas.cli.predicted import Predict
from convatlas.cli.seen import See
from convatlas.errors import UsageError, UserError, printable


@dataclass
class Models:
    """List the networks: name, paper, year, input, parameters, multiply-adds, the paper's own error, editions."""

    pattern: Annotated[Positional[str], arg(metavar="PATTERN", help="A shell pattern, such as 'resnet*'.")] = "*"
    json: Json = False

    def __call__(self) -> None:
        from convatlas import models

        rows: list[dict[str, Any]] = []
        for name in models.list_models(self.pattern):
            entry, line = models.find(name), models.counts(name)
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


@dataclass
class Show:
    """Read a network: shapes, cost, memory, receptive field and design principles, by stage; nothing is computed or allocated."""

    model: Annotated[Positional[str], arg(metavar="MODEL", help="A network's name.")]
    edition: Annotated[str, arg(help="The paper's network, or a named edition.")] = "paper"
    input: Annotated[str, arg(metavar="CxHxW", help="Channels, height and width of one image; default the paper's.")] = ""
    depth: Annotated[int | None, arg(metavar="N", help="Names deep: 1 for its parts, 9 for every layer; default by stage.")] = None
    against: Annotated[str, arg(metavar="MODEL", help="A second network beside it, or NAME:EDITION.")] = ""
    json: Json = False
    markdown: Annotated[bool, arg(help="Print the tables as markdown.")] = False
    html: Annotated[Path | None, arg(metavar="FILE", help="Write one page that unfolds, and works offline.")] = None
    png: Annotated[Path | None, arg(metavar="FILE", help="Draw cost and receptive field along depth; takes some seconds.")] = None

    def __call__(self) -> None:
        given = [name for name in ("json", "markdown", "html", "png") if getattr(self, name)]
        if len(given) > 1:
            raise UsageError(f"--{given[0]} and --{given[1]} exclude each other: choose one")
        if self.depth is not None and self.depth < 1:
            raise UsageError(f"--depth should be 1 or more, not {self.depth}")
        reports, models = zip(*self._networks(), strict=True)
        if self.png:
            from convatlas.analysis import pictures

            print("convatlas: drawing, with a few passes forward and backward", file=sys.stderr)
            fields = [pictures.effective_fields(model, report) for model, report in zip(models, reports, strict=True)]
            write(self.png, pictures.png(reports, fields))
        elif self.html:
            from convatlas.analysis.page import html

            write(self.html, html(*reports).encode())
        elif self.json:
            document = reports[0].document(self.depth)
            print_json(document | {"against": reports[1].document(self.depth)} if self.against else document)
        elif self.markdown:
            from convatlas.analysis.tables import markdown

            print(markdown(reports, self.depth), end="")
        else:
            self._print(reports)

    def _networks(self) -> list[tuple[Any, Any]]:
        import torch

        from convatlas import analysis, models

        shape = _shape(self.input) if self.input else None
        torch.manual_seed(0)  # the same picture each time
        found = []
        for name, edition in [(self.model, self.edition), *([self.against.partition(":")[::2]] if self.against else [])]:
            entry = models.find(name, edition or "paper")
            channels, height, width = shape or entry.input
            arguments: dict[str, Any] = {"in_chans": channels, "image_size": (height, width)} if shape else {}
            with torch.device("cpu" if self.png else "meta"):  # a gradient needs weights
                model = models.create_model(name, edition or "paper", **arguments)
            found.append((analysis.analyze(model, (channels, height, width)), model))
        return found

    def _print(self, reports: Any) -> None:
        from convatlas.analysis import tables
        from convatlas.analysis.compare import compare
        from convatlas.analysis.rows import CONVENTION

        for table in compare(*reports) if self.against else ():
            print_table(table.columns, table.rows, right=tuple(c for c in table.columns if c not in table.text))
            print()
        for report in reports:
            print(tables.title(report))
            rows = tables.rows(report, self.depth)
            print_table(tables.HEADS, [tables.cells(row) for row in rows], right=tuple(h for h in tables.HEADS if h not in tables.TEXT))
            print()
            for name, text in tables.totals(report):
                paragraph(f"{name:<14}{text}", 14)
            for note in report.notes:
                paragraph(f"{'note':<14}{note}", 14)
            print("\ndesign principles (arXiv:1512.00567, sec. 2), measured; flags are advice")
            for finding in report.principles:
                paragraph(f"  {finding.principle}: {finding.reading}", 4)
                for flag in finding.flags:
                    paragraph(f"    flag: {flag}", 10)
            print()
        paragraph(CONVENTION, 0)


@dataclass
class Train:
    """Train a network on a data set by a recipe, evaluate it on the test split once, save and report."""

    model: Annotated[Positional[str], arg(metavar="MODEL", help="A network's name, or a run.json to start anew.")] = ""
    edition: Annotated[str, arg(help="The paper's network, or a named edition.")] = "paper"
    data: Annotated[str, arg(help="A published set, or folder:, manifest:, imagenet:, packed:, tar:, hf: and where (docs/data.md).")] = ""
    recipe: Annotated[str, arg(help="paper (the network's own), small, quick, finetune, or a recipe's name.")] = "quick"
    out: Annotated[Path | None, arg(metavar="FOLDER", help="The run's folder; default runs/MODEL-DATA-ID8.")] = None
    seed: Annotated[int, arg(help="All that is random follows from it.")] = 0
    epochs: Annotated[float | None, arg(metavar="N", help="Passes over the training images, instead of the recipe's.")] = None
    batch: Annotated[int | None, arg(metavar="N", help="Images a step, instead of the recipe's.")] = None
    device: Annotated[str, arg(help="auto, cpu, cuda or cuda:N.")] = "auto"
    workers: Annotated[int | None, arg(metavar="N", help="Processes that load data; any number gives the same run.")] = None
    weights: Annotated[str, arg(metavar="FILE", help="Begin from these: a run, a model.safetensors, another library's file.")] = ""
    set: Annotated[tuple[str, ...], arg(metavar="KEY.PATH=VALUE ...", help="Fields of the run, as in its run.json.")] = ()
    resume: Annotated[Path | None, arg(metavar="FOLDER", help="Continue the run in this folder, bit for bit.")] = None
    force: Annotated[bool, arg(help="Continue although environment or data differ.")] = False
    json: Json = False

    def __call__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers should be 0 or more, not {self.workers}")
        display = _display(self.json)
        display.say("convatlas: loading PyTorch")
        from convatlas.runtime.progress import speaks
        from convatlas.training import train

        out = self.resume or self.out
        result = train(self._run(), out, self.device, self.workers, self.force, display)
        if self.json and speaks():
            print_json({"out": str(result.out), "run_id": result.run_id, "metrics": result.metrics})
        if self.json:
            return
        display.say("next:")
        display.say(f"  convatlas eval {result.out}")
        display.say(f"  convatlas predict {result.out} IMAGE...")
        display.say(f"  convatlas train --resume {result.out}    (had it been interrupted)")

    def _run(self) -> Any:
        from convatlas import models
        from convatlas.recipes import Epochs
        from convatlas.storage.records import set_path
        from convatlas.training import Run
        from convatlas.training.initial import Initial, architecture_of
        from convatlas.training.run import read

        file = self.resume / "run.json" if self.resume else Path(self.model) if self.model.endswith(".json") else None
        if file is not None:
            changes = [
                n
                for n in ("data", "epochs", "batch", "set", "seed", "weights")
                if getattr(self, n) != type(self).__dataclass_fields__[n].default
            ]
            if changes:
                raise UsageError(f"--{changes[0]} cannot change the run of {printable(file)}: start a new one by the network's name")
            try:
                return read(file.read_bytes(), str(file)).run
            except OSError as error:
                hint = "expected a run's folder" if self.resume else "expected a run.json"
                raise UsageError(f"cannot read {printable(file)} ({error.strerror}): {hint}") from None
        if not self.model:
            raise UsageError("train needs a network's name, for example: convatlas train lenet5 --data fashion-mnist")
        model = models.describe(self.model, self.edition)  # a name that does not exist is said before anything else
        if not self.data:
            raise UsageError(f"train needs --data, for example: convatlas train {self.model} --data fashion-mnist")
        if self.weights:
            model = architecture_of(self.weights, self.model, self.edition)
        initial = Initial(file=self.weights) if self.weights else None
        run = Run(model=model, data=self.data, recipe=self.recipe, initial=initial, seed=self.seed)
        recipe = run.recipe
        if self.epochs is not None:
            recipe = recipe.but(budget=Epochs(_positive("--epochs", self.epochs)))
        if self.batch is not None:
            recipe = recipe.at_batch(int(_positive("--batch", self.batch)))
        run = run.but(recipe=recipe)
        for assignment in self.set:
            run = set_path(run, assignment)
        return run


@dataclass
class Import:
    """Turn another library's weights (.pth, .safetensors) into a classifier: torchvision's, timm's or pytorchcv's."""

    file: Annotated[Positional[Path], arg(metavar="FILE", help="The weights; nothing in them is run.")]
    model: Annotated[str, arg(metavar="MODEL", help="The network's name.")]
    edition: Annotated[str | None, arg(help="Default: the first edition that the weights fit.")] = None
    classes: Annotated[Path | None, arg(metavar="FILE", help="Class names, one a line or a JSON list; default their numbers.")] = None
    out: Annotated[Path | None, arg(metavar="FOLDER", help="Default runs/MODEL-LIBRARY.")] = None
    json: Json = False

    def __call__(self) -> None:
        from convatlas.classifier import save
        from convatlas.interop import import_classifier

        classifier = import_classifier(self.file, self.model, self.edition, self.classes)
        card = classifier.card
        out = self.out or Path("runs") / f"{self.model}-{card.provenance['source']}"
        file = out / "model.safetensors"
        if file.exists() or (out / "run.json").exists():
            raise UsageError(f"{printable(out)} already holds a classifier or a run: choose another folder with --out")
        try:
            out.mkdir(parents=True, exist_ok=True)
            save(file, card, classifier.model, classifier.standardiser)
        except OSError as error:
            raise UserError(f"cannot write {printable(file)}: {error.strerror}") from None
        if self.json:
            print_json({"out": str(out), "network": card.network, "source": card.provenance["source"], "classes": len(card.classes)})
            return
        size, shorter = card.preprocessing.size[0], card.preprocessing.source[0]
        print(f"{card.provenance['source']}'s weights fit {self.model}, edition {card.network.edition}: {len(card.classes):,} classes")
        print(f"images: shorter side to {shorter}, centre {size}x{size}, as that library's usual weights want them")
        if self.classes is None:
            print("classes bear their numbers: name them with --classes FILE, one a line")
        print(f"wrote {printable(file)}")
        print("next:")
        print(f"  convatlas predict {printable(out)} IMAGE...")
        print(f"  convatlas eval {printable(out)} --data folder:PHOTOS")


@dataclass
class Compare:
    """Compare runs: what differs between their records, their curves in one picture, who was right on the same test images."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN ...", help="Folders of two or more runs, finished or not.")]
    png: Annotated[Path | None, arg(metavar="FILE", help="The curves; default compare-ID8-ID8.png beside the first run's folder.")] = None
    json: Json = False

    def __call__(self) -> None:
        from convatlas.cli import compared
        from convatlas.training import compare, overlay

        pasts = compare.read_all(self.runs)
        document = compare.document(pasts)
        file = (self.png or compare.picture_path(pasts)) if any(past.lines for past in pasts) else None
        picture = overlay.png(pasts, document["differences"]) if file else b""
        if not self.json:
            compared.show(document)
        if file:
            write(file, picture, quiet=self.json)
        if self.json:
            print_json(document | {"curves": None if file is None else str(file)})


@dataclass
class Plan:
    """Say what a run needs before it starts: memory, the largest batch that fits, time and device-hours on 1 to 4,096 devices."""

    run: Annotated[Positional[Path], arg(metavar="RUN.json", help="A run.json, or a run's folder.")]
    device: Annotated[str, arg(metavar="NAME", help="here (measured), or a100-80gb, h100-sxm, v100-16gb, t4, rtx4090.")] = "here"
    count: Annotated[int | None, arg(metavar="N", help="How many such devices; as many as there are ranks, one without torchrun.")] = None
    json: Json = False

    def __call__(self) -> None:
        from convatlas.cli import planned
        from convatlas.runtime.progress import speaks
        from convatlas.training import probe

        document = probe.document(self.run, self.device, self.count, _display(True).say)
        if not speaks():
            return
        if self.json:
            print_json(document)
        else:
            planned.show(document)


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
        say = _display(True).say
        if self.kind == "inference":
            from convatlas.inference import bench as inference

            model = self.model or "resnet50"
            if self.row is not None:
                print_json(inference.measure(model, self.row, self.photos or Path()))
                return
            document = inference.inference(model, self.rounds, self.compile, say)
            what = f"{model}, {document['input']}, batches of {document['batch']}; baseline is {document['baseline']}"
        elif self.kind == "data":
            from convatlas.data import bench as loading

            if self.row is not None:
                print_json(loading.measure(self.row, self.photos or Path()))
                return
            document = loading.loading(self.rounds, say)
            what = f"{document['images']} JPEGs of {document['bytes_per_image'] / 1e3:,.0f} kB; baseline is {document['baseline']}"
        else:
            from convatlas.training import bench as training

            model = self.model or "resnet20_cifar"
            if self.row is not None:
                print_json(training.measure(model, self.batch, self.row))
                return
            batch = None if self.batch is None else int(_positive("--batch", self.batch))
            document = training.training(model, batch, self.rounds, self.compile, say)
            what = f"{model}, a training step of {document['batch']} images {document['input']}; baseline is {document['baseline']}"
        if self.json:
            print_json(document)
            return
        from convatlas.runtime.rounds import columns

        print(f"{what}; {document['machine']}")
        figures: tuple[str, ...] = ("images/s", "to baseline", "to baseline-tuned", "peak MB")
        rows = columns(document["rows"])
        if self.kind == "train":
            figures += ("% of matrix product",)
            rows = [(*row, f"{found['share']:.0f}") for row, found in zip(rows, document["rows"], strict=True)]
        print_table(("row", *figures), rows, right=figures)


COMMANDS: dict[str, Any] = {
    "models": Models,
    "show": Show,
    "train": Train,
    "eval": Eval,
    "predict": Predict,
    "see": See,
    "import": Import,
    "export": Export,
    "compare": Compare,
    "plan": Plan,
    "bench": Bench,
    "data": Data,
}


def _display(quiet_stdout: bool) -> Any:
    from convatlas.training.display import display

    return display(quiet_stdout)


def _positive(option: str, value: float) -> float:
    if not value > 0:
        raise UsageError(f"{option} should be greater than 0, not {value}")
    return value


def _shape(text: str) -> tuple[int, int, int]:
    """CxHxW."""
    sides = text.lower().split("x")
    if len(sides) != 3 or not all(side.isascii() and side.isdigit() and 0 < int(side) < 1 << 16 for side in sides):
        raise UsageError(f"--input is {text!r}: expected channels, height and width, as 3x224x224")
    channels, height, width = map(int, sides)
    return channels, height, width
