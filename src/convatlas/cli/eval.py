"""`eval`: the command, and its document in words."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from convatlas.cli.arguments import Json, arg
from convatlas.cli.output import paragraph, print_json, print_table
from convatlas.errors import UsageError, printable


@dataclass
class Eval:
    """Evaluate saved networks as the papers do: crops, dense or ensembles, with calibration; or masks, boxes.

    Under torchrun the ranks share the images; an interrupted evaluation continues.
    """

    weights: Annotated[
        Positional[tuple[Path, ...]],
        arg(metavar="WEIGHTS ...", help="Runs' folders or model.safetensors files; several are an ensemble."),
    ]
    data: Annotated[str | None, arg(metavar="DATA", help="Default: the data that they were trained on.")] = (
        None
    )
    split: Annotated[
        str | None,
        arg(metavar="SPLIT", help="train, val, test or all; default test, and all of a set without splits."),
    ] = None
    crops: Annotated[
        str, arg(help="The protocol: center, 10, 12, 144, dense or multiscale (docs/evaluation.md).")
    ] = "center"
    subset: Annotated[
        Path | None, arg(metavar="FILE", help="Only the images that this file names, one a line.")
    ] = None
    subsets: Annotated[bool, arg(help="Also every subset of the members, from the same predictions.")] = False
    out: Annotated[
        Path | None, arg(metavar="FOLDER", help="Write report.md, its figures and the document there.")
    ] = None
    json: Json = False

    def __call__(self) -> int:
        if not self.weights:
            raise UsageError("eval needs at least one run's folder or model.safetensors")
        from convatlas.evaluation import evaluate, report
        from convatlas.runtime.progress import is_main_process

        if self.out is not None:
            report.check_folder(self.out)
        result = evaluate(self.weights, self.data, self.split, self.crops, self.subset, self.subsets)
        exit_code = 1 if result["unreadable"] else 0
        if not is_main_process():
            return exit_code
        for note in result["notes"]:
            print(f"convatlas: {printable(note)}", file=sys.stderr)
        for sample in result["unreadable"]:
            file, reason = printable(sample["file"]), printable(sample["reason"])
            print(f"convatlas: not counted: {file}: {reason}", file=sys.stderr)
        page = report.write_report(self.out, result) if self.out is not None else None
        if self.json:
            print_json(result)
        else:
            print_evaluation(result)
            if page is not None:
                print(f"wrote {printable(page)}")
        return exit_code


def print_evaluation(document: dict[str, Any]) -> None:
    """Print the document of `eval`."""
    if "ap50" in document:
        return _print_boxes(document)
    if "mean_iou" in document:
        return _print_masks(document)
    from convatlas.evaluation.results import majority_sentence

    low, high = document["top1_interval"]
    networks = f"{document['models']} networks, " if document["models"] > 1 else ""
    protocol = document["protocol"]
    crops = "centre crop" if document["crops"] == "center" else f"{protocol['label']} ({protocol['source']})"
    paragraph(
        f"top-1 {document['top1']:.2f} %, 95 % interval {low:.2f} to {high:.2f}, "
        f"{document['n']:,} images, {networks}{crops}",
        6,
    )
    paragraph(printable(majority_sentence(document)), 6)
    if document["top5"] is not None:
        print(f"top-5 {document['top5']:.2f} %")
    balanced, f1 = document["balanced_accuracy"], document["macro_f1"]
    print(f"balanced accuracy {balanced:.2f} %, macro F1 {f1:.2f} %")
    print(f"loss  {document['loss']:.4f}, mean negative log-likelihood")
    bins = [bin for bin in document["reliability"] if bin["n"]]
    confidence = sum(bin["n"] * bin["confidence"] for bin in bins) / document["n"]
    print(f"mean confidence {confidence:.2f} %; expected calibration error {document['ece']:.2f} %")
    for text in protocol["unstated"]:
        paragraph(f"unstated by the paper: {text}", 2)
    _print_members(document)
    _print_classes(document)


def _print_masks(document: dict[str, Any]) -> None:
    from convatlas.evaluation.report import mask_gain_sentence
    from convatlas.segmentation.results import baseline_sentence, instances_sentence

    low, high = document["mean_iou_interval"]
    networks = f", {document['models']} networks" if document["models"] > 1 else ""
    paragraph(
        f"mean IU {document['mean_iou']:.2f} %, 95 % interval {low:.2f} to {high:.2f}, "
        f"{document['n']:,} whole images{networks}",
        8,
    )
    paragraph(printable(baseline_sentence(document)), 8)
    print(
        f"pixel accuracy {document['pixel_accuracy']:.2f} %, mean accuracy "
        f"{document['mean_accuracy']:.2f} %, frequency-weighted IU {document['frequency_weighted_iou']:.2f} %"
    )
    print(f"loss  {document['loss']:.4f}, mean cross-entropy of a pixel")
    if document["instances"] is not None:
        paragraph(printable(instances_sentence(document["instances"])), 2)
    _print_cached(document)
    print()
    if document["models"] > 1:
        rows = [_member_row(member, "mean_iou") for member in document["members"]]
        print_table(("weights", "network", "mean IU %", "loss"), rows, right=("mean IU %", "loss"))
        paragraph(mask_gain_sentence(document), 0)
        print()
    rows = []
    confusion = document["confusion"]
    for i, row in enumerate(document["per_class"]):
        most_confused = max((j for j in range(len(confusion)) if j != i), key=lambda j: confusion[i][j])
        share = 100 * confusion[i][most_confused] / max(sum(confusion[i]), 1)
        confused = f"{document['per_class'][most_confused]['name']} ({share:.0f} %)" if share else "-"
        iou = "-" if row["iou"] is None else f"{row['iou']:.2f}"
        rows.append((printable(row["name"]), f"{row['pixels']:,}", iou, printable(confused)))
    columns = ("class", "pixels", "IU %", "most often confused with")
    print_table(columns, rows, right=("pixels", "IU %"))


def _print_boxes(document: dict[str, Any]) -> None:
    low, high = document["ap50_interval"]
    paragraph(
        f"AP@0.5 {document['ap50']:.2f} %, 95 % interval {low:.2f} to {high:.2f}, {document['n']:,} images "
        f"with {document['objects']:,} objects",
        7,
    )
    low, high = document["mean_iou_interval"]
    print(f"mean IoU {document['mean_iou']:.2f} %, 95 % interval {low:.2f} to {high:.2f}")
    print(
        f"VOC 2007's AP@0.5 {document['ap50_voc07']:.2f} %, COCO's {document['ap50_coco']:.2f} %, "
        f"COCO's AP {document['ap_coco']:.2f} %\n"
    )
    rows = [
        (
            printable(row["name"]),
            f"{row['objects']:,}",
            "-" if row["ap50"] is None else f"{row['ap50']:.2f}",
        )
        for row in document["per_class"]
    ]
    print_table(("class", "objects", "AP@0.5 %"), rows, right=("objects", "AP@0.5 %"))


def _print_members(document: dict[str, Any]) -> None:
    from convatlas.evaluation.report import gain_sentence, size_rows

    _print_cached(document)
    if document["models"] > 1:
        print()
        rows = [_member_row(member, "top1") for member in document["members"]]
        print_table(("weights", "network", "top-1 %", "loss"), rows, right=("top-1 %", "loss"))
        paragraph(gain_sentence(document), 0)
    if "by_size" in document:
        print()
        columns = ("networks", "subsets", "top-1 %, mean", "lowest", "highest")
        print_table(columns, size_rows(document), right=columns)
    print()


def _print_cached(document: dict[str, Any]) -> None:
    cached = [printable(member["weights"]) for member in document["members"] if member["cached"]]
    if cached:
        print(f"from cached predictions: {', '.join(cached)}")


def _member_row(member: dict[str, Any], score: str) -> tuple[str, ...]:
    weights = printable(member["weights"])
    return weights, member["network"], f"{member[score]:.2f}", f"{member['loss']:.4f}"


def _print_classes(document: dict[str, Any]) -> None:
    classes, confusion = document["per_class"], document["confusion"]
    rows = []
    for i, row in enumerate(classes):
        most_confused = max((j for j in range(len(classes)) if j != i), key=lambda j: confusion[i][j])
        count = confusion[i][most_confused]
        confused = f"{classes[most_confused]['name']} ({count:,})" if count else "-"
        accuracy = "-" if row["top1"] is None else f"{row['top1']:.2f}"
        rows.append((printable(row["name"]), f"{row['n']:,}", accuracy, printable(confused)))
    columns = ("class", "images", "top-1 %", "most often confused with")
    print_table(columns, rows, right=("images", "top-1 %"))
