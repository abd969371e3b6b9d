"""`data info`: a data set counted, measured and drawn."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from convatlas.cli.arguments import Json, arg
from convatlas.cli.data.tables import DataName, print_classes, size_range, sizes_document
from convatlas.cli.output import paragraph, print_json, write
from convatlas.errors import UsageError, printable

if TYPE_CHECKING:
    from convatlas.data.curation.statistics import DatasetStatistics
    from convatlas.training.preview import DataPreview


@dataclass
class Info:
    """Count the images by class and split, measure sizes and colours, and draw a contact sheet.

    Boxes beside the images are counted, measured and drawn, too.
    """

    data: DataName
    model: Annotated[
        str,
        arg(metavar="NAME", help="A network: colours at its input size, and its input on the contact sheet."),
    ] = ""
    recipe: Annotated[str, arg(metavar="NAME", help="The recipe that augments it; default quick.")] = ""
    png: Annotated[Path | None, arg(metavar="FILE", help="Draw the contact sheet.")] = None
    seed: Annotated[int, arg(metavar="N", help="Which images are drawn, and how they are augmented.")] = 0
    json: Json = False

    def __call__(self) -> None:
        if self.recipe and not self.model:
            raise UsageError(
                "--recipe needs --model: images are cropped to a network's size, for example --model "
                "resnet20_cifar"
            )
        from convatlas.cli.data.boxes import next_step, open_contents, print_statistics, statistics_document
        from convatlas.data.curation.box_statistics import box_statistics, draw_box_sheet
        from convatlas.data.curation.contact_sheet import draw_contact_sheet
        from convatlas.data.curation.statistics import dataset_statistics
        from convatlas.plotting import stack_pngs
        from convatlas.training.preview import preview_data

        labels, boxes = open_contents(self.data)
        if labels is None and self.model:
            raise UsageError(
                f"{printable(self.data)} holds boxes, which no network of --model trains on: leave it out"
            )
        document: dict[str, Any] = {}
        sheets = []
        if labels is not None:
            preview = preview_data(self.data, self.model, self.recipe or "quick", self.seed)
            statistics = dataset_statistics(preview.dataset, preview.preprocessing)
            document |= _document(statistics, preview)
            if self.png:
                sheets.append(draw_contact_sheet(preview.dataset, self.seed, preview.batches, preview.title))
            if not self.json:
                _print(statistics, preview)
        if boxes is not None:
            of_boxes = box_statistics(boxes)
            document |= {"boxes": statistics_document(of_boxes)}
            if self.png:
                sheets.append(draw_box_sheet(boxes, self.seed))
            if not self.json:
                print("\nboxes" if labels else "objects by class")
                print_statistics(of_boxes)
                skipped = sum(len(part.skipped) for part in boxes.splits.values())
                if skipped:
                    print(f"  {skipped:,} annotations cannot be used: convatlas data check lists them")
        if self.png:
            write(self.png, stack_pngs(sheets), quiet=True)
        if self.json:
            print_json(document | {"png": str(self.png) if self.png else None})
            return
        if self.png:
            print(f"wrote {printable(self.png)}")
        if labels is not None:
            print(f"next: convatlas train {self.model or 'MODEL'} --data {printable(self.data)}")
        if boxes is not None:
            print(next_step(self.data))


def _document(statistics: "DatasetStatistics", preview: "DataPreview") -> dict[str, Any]:
    return {
        "name": statistics.name,
        "n": statistics.n,
        "channels": statistics.channels,
        "classes": statistics.classes,
        "sizes_sampled": statistics.sizes_sampled,
        "mean": statistics.mean,
        "std": statistics.std,
        "pixels_sampled": statistics.pixels_sampled,
        "sizes": sizes_document(statistics.sizes),
        "size": statistics.size,
        "notes": preview.notes,
        "passed_over": preview.dataset.passed_over,
    }


def _print(statistics: "DatasetStatistics", preview: "DataPreview") -> None:
    print_classes(statistics.classes)
    channels = "1 channel" if statistics.channels == 1 else f"{statistics.channels} channels"
    print(f"{statistics.n:,} images of {channels}")
    sampled = (
        f", of {statistics.sizes_sampled:,} sampled images" if statistics.sizes_sampled < statistics.n else ""
    )
    print(f"{size_range(statistics.sizes)}{sampled}")
    height, width = statistics.size
    mean = " ".join(f"{value:.4f}" for value in statistics.mean)
    std = " ".join(f"{value:.4f}" for value in statistics.std)
    images = f"{statistics.pixels_sampled:,} training images at {width}x{height}"
    print(f"mean {mean}, standard deviation {std}, of {images}")
    if preview.dataset.passed_over:
        paragraph(f"passed over: {preview.dataset.passed_over}", 2)
    for note in preview.notes:
        paragraph(printable(note), 2)
