"""`convatlas data`: look at a data set before a network does."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json
from convatlas.cli.output import paragraph, print_json, print_table
from convatlas.errors import UsageError, printable

LINES = 20  # of a kind; --json has all
CLASSES = 24  # more are not counted one by one
NAMED = 3  # files of one note, or classes of one split

Name = Annotated[Positional[str], arg(metavar="DATA", help="As in train --data: folder:PATH, manifest:FILE, fashion-mnist, ...")]


@dataclass
class Check:
    """Read every image as a training does: what is broken (put on the quarantine list; exit code 1), odd, passed over, there twice."""

    data: Name
    workers: Annotated[int | None, arg(metavar="N", help="Images that are read at once; default as many as cores.")] = None
    json: Json = False

    def __call__(self) -> int:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers should be 1 or more, not {self.workers}")
        from convatlas.data import open_source
        from convatlas.data.curation.check import check, quarantine

        found = open_source(self.data)
        report = check(found, self.workers)
        file, unwritten = None, None
        try:
            file = quarantine(found, report.bad)
        except OSError as error:
            unwritten = (
                f"the quarantine list cannot be written ({printable(error.filename)}: {error.strerror}): make room for it, check again"
            )
        if self.json:
            document = {"ok": not report.bad, "bad": report.bad, "notes": [note._asdict() for note in report.notes]}
            document |= {"duplicates": report.duplicates, "reach": report.reach, "n": report.n, "classes": report.classes}
            document |= {"sizes": _sizes(report.sizes), "refusal": report.refusal, "remarks": report.remarks}
            print_json(document | {"quarantine": str(file) if file else None})
        else:
            _say(report)
            print(unwritten or _after(report, self.data, file))
        return 1 if report.bad else 0


@dataclass
class Split:
    """Write a list that divides files into train, val and test, by class and group; no file is moved."""

    data: Name
    val: Annotated[float, arg(metavar="FRACTION", help="Of the images, for validation.")] = 0.1
    test: Annotated[float, arg(metavar="FRACTION", help="Of the images, for the test.")] = 0.1
    seed: Annotated[int | None, arg(metavar="N", help="Another split than a training makes by itself, by content.")] = None
    out: Annotated[Path | None, arg(metavar="FILE", help="The list, in CSV; default split.csv in the data's folder.")] = None
    json: Json = False

    def __call__(self) -> None:
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"--seed should be 0 or more, not {self.seed}")
        from convatlas.data import open_source
        from convatlas.data.curation.split_manifest import split_files
        from convatlas.data.curation.statistics import class_counts
        from convatlas.storage.atomic import atomic_write

        found = open_source(self.data)
        division = split_files(found, self.val, self.test, self.seed)
        out = self.out or division.files.root / "split.csv"
        if out.exists():
            raise UsageError(f"{printable(out)} is there already: choose another name with --out, or remove it")
        atomic_write(out, division.manifest(out.parent))
        classes = class_counts(found.classes, found.labels, division.splits)
        sums = {part: len(indices) for part, indices in division.splits.items()}
        if self.json:
            print_json({"out": str(out), "counts": sums, "classes": classes, "left_out": division.left_out})
            return
        _print_classes(classes)
        if found.splits:
            print(f"the source's own splits, {' and '.join(found.splits)}, are mixed and divided anew")
        if division.left_out:
            print(f"{division.left_out:,} broken files are left out: they are on the quarantine list")
        print(f"wrote {printable(out)}: {', '.join(f'{count:,} {part}' for part, count in sums.items())}")
        print(f"next: convatlas train MODEL --data manifest:{printable(out)}")


@dataclass
class Pack:
    """Write a data set into a few large files that are mapped into memory: docs/packed.md. Interrupted, it goes on where it was."""

    data: Name
    out: Annotated[Path, arg(metavar="FOLDER", help="Where to; train --data packed:FOLDER reads it.")]
    side: Annotated[int, arg(metavar="N", help="The shorter side of the pixels that are stored; smaller images stay as they are.")] = 256
    files: Annotated[bool, arg(help="Store the image files themselves, and decode them in training.")] = False
    workers: Annotated[int | None, arg(metavar="N", help="Processes; default as many as cores.")] = None
    json: Json = False

    def __call__(self) -> int:
        if self.side < 1 or (self.workers is not None and self.workers < 1):
            raise UsageError("--side and --workers should be 1 or more")
        from convatlas.data import open_dataset
        from convatlas.data.curation.pack import pack

        result = pack(open_dataset(self.data), self.out, self.side, self.files, self.workers)
        for one in result.unreadable:
            print(f"convatlas: left out: {printable(one.file)}: {one.reason}", file=sys.stderr)
        if self.json:
            unread = [{"file": one.file, "reason": one.reason} for one in result.unreadable]
            print_json({"out": str(result.path), "n": result.samples, "bytes": result.size, "unread": unread})
        else:
            print(f"packed {result.samples:,} images, {result.size / 1e6:,.1f} MB, into {printable(result.path)}")
            print(f"next: convatlas train MODEL --data packed:{printable(result.path)}")
        return 1 if result.unreadable else 0


@dataclass
class Info:
    """Count the images by class and split, measure sizes and colours, and draw a sheet of them, as they are and as a recipe shows them."""

    data: Name
    model: Annotated[str, arg(metavar="NAME", help="A network: colours at its size, and on the sheet what it would be shown.")] = ""
    recipe: Annotated[str, arg(metavar="NAME", help="The recipe that shows it; default quick.")] = ""
    png: Annotated[Path | None, arg(metavar="FILE", help="Draw the sheet.")] = None
    seed: Annotated[int, arg(metavar="N", help="Which images are drawn, and how.")] = 0
    json: Json = False

    def __call__(self) -> None:
        if self.recipe and not self.model:
            raise UsageError("--recipe needs --model: images are cut to a network's size, for example --model resnet20_cifar")
        from convatlas.data import open_dataset
        from convatlas.data.curation.statistics import dataset_statistics
        from convatlas.data.transforms.preprocessing import (
            center_crop_preprocessing,
            fixed_size_preprocessing,
        )
        from convatlas.storage.atomic import atomic_write

        training, title = None, ""
        if self.model:
            dataset, preprocessing, training, title, remarks = self._as_trained()
        else:
            dataset = open_dataset(self.data)
            remarks, size = dataset.notes, dataset.size
            preprocessing = (
                fixed_size_preprocessing(dataset.channels, size, size) if size else center_crop_preprocessing(dataset.channels, (224, 224))
            )
        summary = dataset_statistics(dataset, preprocessing)
        if self.png:
            from convatlas.data.curation import contact_sheet

            atomic_write(self.png, contact_sheet.draw_contact_sheet(dataset, self.seed, training, title))
        if self.json:
            facts = {name: getattr(summary, name) for name in ("name", "n", "channels", "classes", "looked_at", "mean", "std", "measured")}
            facts |= {"sizes": _sizes(summary.sizes), "size": summary.size, "remarks": remarks}
            print_json(facts | {"png": str(self.png) if self.png else None})
            return
        _print_classes(summary.classes)
        print(f"{summary.n:,} images of {summary.channels} channel{'s' if summary.channels > 1 else ''}")
        some = f", of {summary.looked_at:,} that were looked at" if summary.looked_at < summary.n else ""
        print(f"{_extent(summary.sizes)}{some}")
        values = (" ".join(f"{value:.4f}" for value in numbers) for numbers in (summary.mean, summary.std))
        height, width = summary.size
        of = f"of {summary.measured:,} training images at {width}x{height}"
        print("mean {}, standard deviation {}, {}".format(*values, of))
        for remark in remarks:
            paragraph(printable(remark), 2)
        if self.png:
            print(f"wrote {printable(self.png)}")
        print(f"next: convatlas train {self.model or 'MODEL'} --data {printable(self.data)}")

    def _as_trained(self) -> tuple[Any, Any, Any, str, tuple[str, ...]]:
        import torch

        from convatlas.data.loading.train_batches import TrainBatches
        from convatlas.training import Run
        from convatlas.training.resolve import resolve_run

        wanted = Run(model=self.model, data=self.data, recipe=self.recipe or "quick", seed=self.seed)
        run, dataset = resolve_run(wanted, torch.device("cpu"))
        recipe, preprocessing = run.recipe, run.content.preprocessing
        training = TrainBatches(dataset.splits["train"], preprocessing, recipe.augment, recipe.batch, run.seed, recipe.crop)
        steps = [type(step).__name__ for step in (recipe.crop, *recipe.augment) if step is not None] or ["nothing is drawn"]
        height, width = preprocessing.size
        title = f"what recipe {recipe.name} shows {run.model.name}, at {width}x{height}: {', '.join(steps)}"
        return dataset, preprocessing, training, title, run.notes


@dataclass
class Data:
    """Look at a data set before a network does: check its files, count and draw it, split it, pack it."""

    commands: ClassVar[dict[str, Any]] = {"check": Check, "pack": Pack, "split": Split, "info": Info}


def _sizes(sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {what: sized._asdict() for what, sized in sizes.items()}


def _extent(sizes: Mapping[str, Any]) -> str:
    if not sizes:
        return "no image can be read"
    smallest, median, largest = (sizes[what] for what in ("smallest", "median", "largest"))
    if smallest[:2] == largest[:2]:
        return f"all {smallest.width}x{smallest.height}"
    return (
        f"smallest {smallest.width}x{smallest.height} ({smallest.file}), median {median.width}x{median.height}, "
        f"largest {largest.width}x{largest.height} ({largest.file})"
    )


def _print_classes(classes: Mapping[str, Mapping[str, int]]) -> None:
    """All of them, or the smallest and the largest, and those that are lacking somewhere."""
    parts = next(iter(classes.values()), {})
    rows = sorted(classes.items(), key=lambda item: sum(item[1].values()))
    shown = list(classes.items())
    if len(rows) > CLASSES:
        few = CLASSES // 3
        lacking = [row for row in rows[few:-few] if not all(row[1].values())]
        shown = [*rows[:few], *lacking[:few], *rows[-few:]]
        print(f"{len(rows):,} classes: the smallest, those that a split lacks, the largest")
    cells = [(name, *(f"{count:,}" for count in row.values())) for name, row in shown]
    print_table(("class", *parts), cells, right=tuple(parts))


def _say(report: Any) -> None:
    from convatlas.data.curation.near_duplicates import MAX_DISTANCE

    _print_classes(report.classes)
    print(f"{report.n:,} images; {_extent(report.sizes)}")
    for remark in report.remarks:
        paragraph(printable(remark), 2)
    if report.refusal:
        paragraph(f"no training can use it: {report.refusal}", 2)
        for part in next(iter(report.classes.values()), {}):
            lacking = [name for name, row in report.classes.items() if not row[part]]
            if lacking:
                print(f"  {part} lacks {_some(lacking)}")
    _section(f"{len(report.bad):,} cannot be read", [f"{entry.file}: {entry.reason}" for entry in report.bad])
    pairs = sorted(report.duplicates, key=lambda pair: pair.classes[0] == pair.classes[1])  # first those that bear two names
    across = [_pair(pair) for pair in pairs if _leaks(pair)]
    within = [_pair(pair) for pair in pairs if not _leaks(pair)]
    _section(f"{len(across):,} pairs across splits show the same: what is measured there is not new to the network", across)
    _section(f"{len(within):,} pairs within a split show the same", within)
    if report.duplicates and report.reach < MAX_DISTANCE:
        print("  (many images of this set look alike: only pairs as near as a change of encoding are counted)")
    kinds: dict[str, list[str]] = {}
    for note in report.notes:
        kinds.setdefault(note.note, []).append(note.file)
    _section("notes", [f"{note} ({len(files):,}): {_some(files)}" for note, files in kinds.items()])


def _section(title: str, lines: Sequence[str]) -> None:
    if lines:
        print(f"\n{title}")
        for line in lines[:LINES]:
            print(f"  {line}")
        if len(lines) > LINES:
            print(f"  and {len(lines) - LINES:,} more: --json lists all")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _leaks(pair: Any) -> bool:
    return len(set(pair.splits) - {"left out"}) == 2


def _pair(pair: Any) -> str:
    (a, b), (one, other) = pair.files, pair.splits
    near = "the same bytes" if pair.identical else f"{pair.distance:.2f} apart"
    classes = "" if pair.classes[0] == pair.classes[1] else f", but of classes {' and '.join(pair.classes)}"
    return f"{one} {a} = {other} {b}: {near}{classes}"


def _after(report: Any, data: str, quarantine: Path | None) -> str:
    """What to do next."""
    if report.refusal:
        return "next: mend that, then check again"
    if report.bad:
        listed = f", being on {printable(quarantine)}" if quarantine else ""
        return f"next: mend or remove the {len(report.bad):,} broken files; trainings leave them out{listed}"
    if any(_leaks(pair) for pair in report.duplicates):
        return "next: remove one image of every pair across splits, or keep such images together as a `group` of a manifest"
    return f"next: convatlas train MODEL --data {printable(data)}"
