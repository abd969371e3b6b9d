"""`predict`: files, folders and patterns through a classifier; a table, or JSON line by line."""

import glob
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

from convatlas.cli.arguments import Json, arg
from convatlas.cli.output import print_json, print_table
from convatlas.errors import UsageError, UserError, printable
from convatlas.names import escape_name

if TYPE_CHECKING:
    from convatlas.runtime.distributed.ranks import Ranks

NEEDS_MASKS = "--instances needs a network that labels pixels, such as unet"


@dataclass
class Predict:
    """Classify image files, folders with all below them, and patterns such as 'photos/**/*.jpg'.

    Of networks that label pixels, write the masks; of detectors, the boxes. Under torchrun the ranks share
    the images.
    """

    weights: Annotated[
        Positional[Path], arg(metavar="WEIGHTS", help="A run's folder or a model.safetensors file.")
    ]
    images: Annotated[
        Positional[tuple[str, ...]], arg(metavar="IMAGE ...", help="Image files, folders, patterns.")
    ]
    top: Annotated[int, arg(help="How many classes to show for each; of detectors, how many boxes.")] = 5
    engine: Annotated[
        Literal["auto", "eager", "compile", "openvino", "onnx"], arg(help="What runs the network.")
    ] = "auto"
    out: Annotated[
        Path,
        arg(
            metavar="FOLDER",
            help="Where masks, and pictures of them or of boxes over their images, are written.",
        ),
    ] = Path("predictions")
    instances: Annotated[
        bool, arg(help="Also write the connected objects of each mask, NAME.instances.png, 16-bit ids.")
    ] = False
    json: Json = False
    jsonl: Annotated[bool, arg(help="Print one JSON document a line, as they come.")] = False

    def __call__(self) -> int:
        if not self.images:
            raise UsageError("predict needs at least one image file or folder after the weights")
        if self.top < 1:
            raise UsageError(f"--top should be at least 1, not {self.top}")
        from convatlas.runtime.distributed.rendezvous import init_ranks

        with init_ranks() as ranks:
            return self._predict(ranks)

    def _predict(self, ranks: "Ranks") -> int:
        """Rank 0 prints the predictions of all ranks."""
        documents: list[dict[str, Any]] = []
        failed = 0
        count = 0
        start = time.perf_counter()
        for document in self._documents(ranks):
            count += 1
            failed += "error" in document
            if ranks.rank:
                continue
            if self.jsonl:
                print_json(document)
                continue
            documents.append(document)
            if "error" in document and not self.json:
                print(f"convatlas: {printable(document['error'])}", file=sys.stderr)
        if ranks.rank:
            return 1 if failed else 0
        if self.json and not self.jsonl:
            print_json(documents)
        elif not self.jsonl:
            _print_table([document for document in documents if "error" not in document])
        rate = (count - failed) / (time.perf_counter() - start)
        speed = (
            f", {rate:,.{0 if rate >= 10 else 1}f} a second, the start of the engine included"
            if count > failed
            else ""
        )
        print(
            f"{count - failed:,} of {count:,} images{speed}",
            file=sys.stderr if self.json or self.jsonl else sys.stdout,
        )
        return 1 if failed else 0

    def _documents(self, ranks: "Ranks") -> Iterator[dict[str, Any]]:
        from convatlas.boxes.detector_file import holds_detector
        from convatlas.classifier import load
        from convatlas.classifier.shared_predictions import predict_on_ranks
        from convatlas.cli.predict_boxes import box_documents, open_detector
        from convatlas.cli.predict_masks import MaskOptions, labels_pixels, mask_documents
        from convatlas.runtime.progress import track

        if holds_detector(self.weights):
            if self.instances:
                raise UsageError(f"{printable(self.weights)} is a detector: {NEEDS_MASKS}")
            detector = open_detector(self.weights, self.engine, ranks)
            yield from box_documents(detector, self._files(), self.top, self.out, ranks)
            return
        classifier = load(self.weights, ranks)
        files = self._files()
        if labels_pixels(classifier):
            options = MaskOptions(self.engine, self.out, self.instances)
            yield from mask_documents(classifier, files, options, ranks, _say)
            return
        if self.instances:
            raise UsageError(f"{classifier.metadata.network.name} classifies images: {NEEDS_MASKS}")
        predictions = predict_on_ranks(classifier, files, self.top, self.engine, ranks, _say)
        if isinstance(files, list):
            predictions = track(predictions, len(files), "images")
        for file, classes in predictions:
            if isinstance(classes, UserError):
                yield {"file": escape_name(file), "error": str(classes)}
            else:
                yield {
                    "file": escape_name(file),
                    "classes": [{"name": name, "probability": p} for name, p in classes],
                }

    def _files(self) -> Iterable[str]:
        """A stream of any length for --jsonl, else a list, whose length the progress bar needs."""
        return _expand(self.images) if self.jsonl else list(_expand(self.images))


def _print_table(documents: list[dict[str, Any]]) -> None:
    if not documents:
        return
    if "mask" in documents[0]:
        rows = [
            (
                printable(document["file"]),
                ", ".join(f"{printable(c['name'])} {c['share']:.1f} %" for c in document["classes"])
                + (f"; {document['objects']:,} objects" if "objects" in document else ""),
                printable(document["mask"]),
            )
            for document in documents
        ]
        print_table(("image", "pixels", "mask, and beside it its overlay"), rows)
        return
    if "boxes" in documents[0]:
        rows = [
            (
                printable(document["file"]),
                ", ".join(f"{printable(b['class'])} {b['score']:.2f}" for b in document["boxes"]) or "-",
                printable(document["picture"]),
            )
            for document in documents
        ]
        print_table(("image", "boxes", "picture"), rows)
        return
    columns = ["image"]
    for rank in range(len(documents[0]["classes"])):
        columns += [
            f"class {rank + 1}" if rank else "class",
            "%" + " " * rank,
        ]  # names of columns must differ
    cells = []
    for document in documents:
        row = [printable(document["file"])]
        for entry in document["classes"]:
            row += [printable(entry["name"]), f"{100 * entry['probability']:.1f}"]
        cells.append(tuple(row))
    print_table(tuple(columns), cells, right=tuple(column for column in columns if column.startswith("%")))


def _expand(names: Iterable[str]) -> Iterator[str]:
    """The files that names, folders and patterns stand for.

    What exists is taken by its name, even if it looks like a pattern; a name that is nothing is yielded, and
    will be reported as missing.
    """
    from convatlas.data.sources.passed_over import describe_passed_over
    from convatlas.data.sources.walk import list_images

    for name in names:
        path = Path(name)
        if path.is_dir():
            listing = list_images(path)
            if listing.passed_over:
                _say(f"passed over in {printable(name)}: {describe_passed_over(listing.passed_over)}")
            yield from [str(path / image) for image in listing.images] or [name]
        elif path.exists() or not glob.has_magic(name):
            yield name
        else:
            files = sorted(file for file in glob.iglob(name, recursive=True) if Path(file).is_file())
            yield from files or [name]


def _say(line: str) -> None:
    print(f"convatlas: {line}", file=sys.stderr)
