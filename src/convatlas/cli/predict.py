"""`predict`: image files, folders and patterns through a classifier; a table, or JSON as the answers come."""

import glob
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json
from convatlas.cli.output import print_json, print_table
from convatlas.errors import UsageError, UserError, printable


@dataclass
class Predict:
    """Classify image files of any size and mode; folders with all below them, and patterns such as 'photos/**/*.jpg'."""

    weights: Annotated[Positional[Path], arg(metavar="WEIGHTS", help="A run's folder or a model.safetensors file.")]
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE ...", help="Image files, folders, patterns.")]
    top: Annotated[int, arg(help="How many classes to show for each.")] = 5
    engine: Annotated[Literal["auto", "eager", "compile", "openvino", "onnx"], arg(help="What runs the network.")] = "auto"
    json: Json = False
    jsonl: Annotated[bool, arg(help="Print one JSON document a line, as they come.")] = False

    def __call__(self) -> int:
        if not self.images:
            raise UsageError("predict needs at least one image file or folder after the weights")
        if self.top < 1:
            raise UsageError(f"--top should be at least 1, not {self.top}")
        from convatlas.inference import load
        from convatlas.runtime.progress import track

        classifier = load(self.weights)
        files = _files(self.images) if self.jsonl else list(_files(self.images))
        answers = classifier.predict_iter(files, self.top, self.engine, say=_say)
        documents, failed, count, began = [], 0, 0, time.perf_counter()
        for file, answer in track(answers, len(files), "images") if isinstance(files, list) else answers:
            count += 1
            if isinstance(answer, UserError):
                failed += 1
                document: dict[str, Any] = {"file": file, "error": str(answer)}
            else:
                document = {"file": file, "classes": [{"name": name, "probability": p} for name, p in answer]}
            if self.jsonl:
                print_json(document)
                continue
            documents.append(document)
            if isinstance(answer, UserError) and not self.json:
                print(f"convatlas: {printable(answer)}", file=sys.stderr)
        if self.json and not self.jsonl:
            print_json(documents)
        elif not self.jsonl:
            _table([document for document in documents if "classes" in document])
        rate = count / (time.perf_counter() - began)
        where = sys.stderr if self.json or self.jsonl else sys.stdout
        print(f"{count - failed:,} of {count:,} images, {rate:,.0f} a second, the start of the engine included", file=where)
        return 1 if failed else 0


def _table(documents: list[dict[str, Any]]) -> None:
    if not documents:
        return
    places = range(len(documents[0]["classes"]))
    columns = ["image"]
    for place in places:
        columns += [f"class {place + 1}" if place else "class", "%" + " " * place]  # names of columns must differ
    cells = []
    for document in documents:
        row = [printable(document["file"])]
        for one in document["classes"]:
            row += [printable(one["name"]), f"{100 * one['probability']:.1f}"]
        cells.append(tuple(row))
    print_table(tuple(columns), cells, right=tuple(column for column in columns if column.startswith("%")))


def _files(given: Iterable[str]) -> Iterator[str]:
    """Each file that is meant. What exists is taken by its name, even if it looks like a pattern; a name that is nothing is passed on,
    and will be reported as missing."""
    from convatlas.data.sources.files import list_images

    for one in given:
        path = Path(one)
        if path.is_dir():
            yield from [str(path / name) for name in list_images(path)] or [one]
        elif path.exists() or not glob.has_magic(one):
            yield one
        else:
            found = sorted(file for file in glob.iglob(one, recursive=True) if Path(file).is_file())
            yield from found or [one]


def _say(line: str) -> None:
    print(f"convatlas: {line}", file=sys.stderr)
