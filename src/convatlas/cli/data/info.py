"""`data info`: a data set counted, measured and drawn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from convatlas.cli.arguments import Json
from convatlas.cli.data.tables import DataName, print_classes, size_range, sizes_document
from convatlas.cli.output import paragraph, print_json, write
from convatlas.errors import UsageError, printable


@dataclass
class Info:
    """Count the images by class and split, measure sizes and colours, and draw a contact sheet."""

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
        from convatlas.data.curation.contact_sheet import draw_contact_sheet
        from convatlas.data.curation.statistics import dataset_statistics
        from convatlas.training.preview import preview_data

        preview = preview_data(self.data, self.model, self.recipe or "quick", self.seed)
        statistics = dataset_statistics(preview.dataset, preview.preprocessing)
        if self.png:
            sheet = draw_contact_sheet(preview.dataset, self.seed, preview.batches, preview.title)
            write(self.png, sheet, quiet=True)
        if self.json:
            print_json(
                {
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
                    "png": str(self.png) if self.png else None,
                }
            )
            return
        print_classes(statistics.classes)
        channels = "1 channel" if statistics.channels == 1 else f"{statistics.channels} channels"
        print(f"{statistics.n:,} images of {channels}")
        sampled = (
            f", of {statistics.sizes_sampled:,} sampled images"
            if statistics.sizes_sampled < statistics.n
            else ""
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
        if self.png:
            print(f"wrote {printable(self.png)}")
        print(f"next: convatlas train {self.model or 'MODEL'} --data {printable(self.data)}")
