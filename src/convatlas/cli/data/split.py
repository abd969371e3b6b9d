"""`data split`: a manifest that splits files into train, val and test; a folder where they have masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from convatlas.cli.arguments import Json, arg
from convatlas.cli.data.tables import DataName, data_notes, print_classes
from convatlas.cli.output import paragraph, print_json
from convatlas.errors import UsageError, printable


@dataclass
class Split:
    """Write a manifest that splits files into train, val and test, by class and group; no file is moved.

    Images with masks are linked into a folder: FOLDER/{train,val,test}/{images,masks}.
    """

    data: DataName
    val: Annotated[float, arg(metavar="FRACTION", help="Of the images, for validation.")] = 0.1
    test: Annotated[float, arg(metavar="FRACTION", help="Of the images, for the test.")] = 0.1
    seed: Annotated[
        int | None, arg(metavar="N", help="For another split than the one by content that a training makes.")
    ] = None
    group_near_duplicates: Annotated[
        bool, arg(help="Keep images that look alike in one split; reads every image.")
    ] = False
    out: Annotated[
        Path | None,
        arg(
            metavar="PATH",
            help="The manifest, in CSV, or the folder; default split.csv, or split, in the data's folder.",
        ),
    ] = None
    json: Json = False

    def __call__(self) -> None:
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"--seed should be 0 or more, not {self.seed}")
        from convatlas.cli.data.boxes import open_contents
        from convatlas.data.curation.split_files import split_files
        from convatlas.data.curation.split_manifest import manifest_csv
        from convatlas.data.curation.split_mask_folder import write_mask_folder
        from convatlas.data.curation.statistics import class_counts
        from convatlas.storage.atomic import atomic_write

        source, _ = open_contents(self.data)
        if source is None:
            raise UsageError(
                f"{printable(self.data)} holds boxes, which a manifest cannot: give each split a folder with "
                "a boxes.json of its own"
            )
        split = split_files(source, self.val, self.test, self.seed, self.group_near_duplicates)
        kind = "manifest" if source.masks is None else "folder"
        out = self.out or split.files.root / ("split.csv" if kind == "manifest" else "split")
        if out.exists():
            raise UsageError(f"{printable(out)} already exists: choose another name with --out, or remove it")
        if kind == "manifest":
            atomic_write(out, manifest_csv(split, out.parent))
        else:
            write_mask_folder(split, out)
        classes = class_counts(source.classes, {name: source.samples(i) for name, i in split.splits.items()})
        counts = {name: len(indices) for name, indices in split.splits.items()}
        if self.json:
            document = {"out": str(out), "counts": counts, "classes": classes, "left_out": split.left_out}
            print_json(document | {"notes": [*data_notes(source), *split.notes]})
            return
        print_classes(classes)
        if source.splits:
            print(f"the source's own splits, {' and '.join(source.splits)}, are merged and split again")
        for note in (*data_notes(source), *split.notes):
            paragraph(note, 2)
        if split.left_out:
            print(f"{split.left_out:,} broken files are left out: they are on the quarantine list")
        print(f"wrote {printable(out)}: {', '.join(f'{count:,} {name}' for name, count in counts.items())}")
        print(f"next: convatlas train MODEL --data {kind}:{printable(out)}")
