"""`data check`: read every image as a training does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from convatlas.cli.arguments import Json, arg, check_workers
from convatlas.cli.data.tables import DataName, print_classes, size_range, sizes_document
from convatlas.cli.output import paragraph, print_json
from convatlas.errors import printable

if TYPE_CHECKING:
    from convatlas.data.curation.check import CheckReport
    from convatlas.data.curation.check_boxes import BoxReport
    from convatlas.data.curation.duplicate_clusters import Cluster
    from convatlas.data.sources.source import RawDataset

MAX_LINES = 20  # of a kind; --json has all
MAX_NAMES = 3  # files of one note or cluster, or classes of one split


@dataclass
class Check:
    """Read every image as a training does; list broken and odd ones, files that are passed over, duplicates.

    Broken images are put on the quarantine list. Boxes beside the images are checked, too. The exit code is 1
    if there is something bad, or if no training can use the data. Under torchrun the ranks share the images.
    """

    data: DataName
    workers: Annotated[
        int | None, arg(metavar="N", help="Images that are read at once; default as many as cores.")
    ] = None
    json: Json = False

    def __call__(self) -> int:
        check_workers(self.workers, 1)
        from convatlas.cli.data.boxes import next_step, open_contents
        from convatlas.data.curation.check import check
        from convatlas.data.curation.check_boxes import check_boxes
        from convatlas.runtime.distributed.rendezvous import init_ranks

        with init_ranks() as ranks:
            source, boxes = open_contents(self.data)
            report = check(source, self.workers, ranks) if source else None
            box_report = check_boxes(boxes, self.workers, ranks) if boxes else None
            if ranks.rank == 0:
                document: dict[str, Any] = {"ok": True, "bad": [], "notes": [], "duplicates": []}
                next_lines = [next_step(self.data)] if boxes else []
                if source and report:
                    file, next_line = _quarantine(source, report, self.data)
                    next_lines.insert(0, next_line)
                    document |= _document(report, file)
                if box_report:
                    document = _with_boxes(document, box_report)
                if self.json:
                    print_json(document)
                else:
                    if report:
                        _print_report(report)
                    if box_report:
                        print("\nboxes" if report else "objects by class")
                        _print_boxes(box_report)
                    print("\n".join(next_lines))
        return 0 if all(item.ok for item in (report, box_report) if item) else 1


def _quarantine(source: "RawDataset", report: "CheckReport", data: str) -> tuple[Path | None, str]:
    """Write the quarantine list: its path, and the last line of the report."""
    from convatlas.data.curation.check import quarantine

    try:
        file = quarantine(source, report.bad)
    except OSError as error:
        name = printable(error.filename)
        return None, (
            f"the quarantine list cannot be written ({name}: {error.strerror}): make room for it, and "
            "check again"
        )
    return file, _next_step(report, data, file)


def _document(report: "CheckReport", quarantine: Path | None) -> dict[str, Any]:
    from convatlas.data.curation.duplicate_clusters import cluster_pairs

    return {
        "ok": report.ok,
        "bad": [
            *({"file": entry.file, "reason": entry.reason} for entry in report.bad),
            *({"file": entry.file, "reason": entry.note} for entry in report.bad_masks),
        ],
        "notes": [note._asdict() for note in report.notes],
        "duplicates": report.duplicates,
        "clusters": cluster_pairs(report.duplicates),
        "max_distance": report.max_distance,
        "n": report.n,
        "classes": report.classes,
        "sizes": sizes_document(report.sizes),
        "training_error": report.training_error,
        "split_notes": report.split_notes,
        "passed_over": report.passed_over,
        "quarantine": str(quarantine) if quarantine else None,
    }


def _with_boxes(document: dict[str, Any], report: "BoxReport") -> dict[str, Any]:
    """The document with what was found about boxes; its keys but `boxes` hold both."""
    from convatlas.cli.data.boxes import statistics_document

    boxes = {"training_error": report.training_error, "split_notes": report.split_notes}
    return (
        {"n": sum(report.statistics.images.values())}
        | document
        | {
            "ok": document["ok"] and report.ok,
            "bad": [*document["bad"], *({"file": file, "reason": text} for file, text in report.bad)],
            "notes": [*document["notes"], *({"file": file, "note": text} for file, text in report.notes)],
            "boxes": statistics_document(report.statistics) | boxes,
        }
    )


def _print_boxes(report: "BoxReport") -> None:
    from convatlas.cli.data.boxes import print_notes, print_statistics

    print_statistics(report.statistics)
    print_notes(report.split_notes)
    if report.training_error:
        paragraph(f"no detector can be trained on it: {printable(report.training_error)}", 2)
    _print_section(
        f"{len(report.bad):,} annotations and images cannot be used",
        [f"{printable(file)}: {text}" for file, text in report.bad],
    )
    _print_section("notes on boxes", [f"{printable(file)}: {text}" for file, text in report.notes])


def _print_report(report: "CheckReport") -> None:
    from convatlas.data.curation.duplicate_clusters import cluster_pairs

    print_classes(report.classes)
    print(f"{report.n:,} images; {size_range(report.sizes)}")
    for text in report.split_notes:
        paragraph(printable(text), 2)
    if report.passed_over:
        paragraph(f"passed over: {report.passed_over}", 2)
    if report.training_error:
        paragraph(f"no training can use it: {report.training_error}", 2)
        for split in next(iter(report.classes.values()), {}):
            missing = [name for name, counts in report.classes.items() if not counts[split]]
            if missing:
                print(f"  {split} has no {_shorten(missing)}")
    _print_section(
        f"{len(report.bad):,} cannot be read", [f"{entry.file}: {entry.reason}" for entry in report.bad]
    )
    _print_section(
        f"{len(report.bad_masks):,} images have no mask that can be used",
        [entry.note for entry in report.bad_masks],
    )
    # first those with several class names
    clusters = sorted(cluster_pairs(report.duplicates), key=lambda cluster: len(set(cluster.classes)) == 1)
    across = [_describe(cluster) for cluster in clusters if _leaks(cluster)]
    within = [_describe(cluster) for cluster in clusters if not _leaks(cluster)]
    _print_section(f"{len(across):,} clusters of images across splits are equal or look alike", across)
    _print_section(f"{len(within):,} clusters of images within a split are equal or look alike", within)
    files_by_note: dict[str, list[str]] = {}
    for note in report.notes:
        files_by_note.setdefault(note.note, []).append(note.file)
    notes = [f"{name} ({len(files):,}): {_shorten(files)}" for name, files in files_by_note.items()]
    _print_section("notes", notes)


def _print_section(title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    print(f"\n{title}")
    for line in lines[:MAX_LINES]:
        print(f"  {line}")
    if len(lines) > MAX_LINES:
        print(f"  and {len(lines) - MAX_LINES:,} more: --json lists all")


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _leaks(cluster: "Cluster") -> bool:
    return len(set(cluster.splits) - {"left out"}) > 1


def _describe(cluster: "Cluster") -> str:
    images = [f"{split} {file}" for split, file in zip(cluster.splits, cluster.files, strict=True)]
    low, high = (f"{distance:.2f}" for distance in cluster.distances)
    likeness = "the same bytes"
    if not cluster.identical:
        likeness = f"look alike, {low if low == high else f'{low} to {high}'} apart"
    names = list(dict.fromkeys(cluster.classes))
    classes = f", but of classes {' and '.join(names)}" if len(names) > 1 else ""
    return f"{len(images)} images, {likeness}{classes}: {_shorten(images)}"


def _next_step(report: "CheckReport", data: str, quarantine: Path | None) -> str:
    if report.training_error:
        return "next: fix that, then check again"
    if report.bad:
        listed = f": they are in {printable(quarantine)}" if quarantine else ""
        return f"next: fix or remove the {len(report.bad):,} broken files; trainings leave them out{listed}"
    if any(len(set(pair.splits) - {"left out"}) > 1 for pair in report.duplicates):
        return (
            "next: look at the images across splits: those that show the same belong into one split, as a "
            "`group` of a manifest"
        )
    return f"next: convatlas train MODEL --data {printable(data)}"
