"""The report of an evaluation: a folder with its document, report.md and the figures."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from convatlas.errors import UsageError, printable
from convatlas.evaluation import plots
from convatlas.evaluation.results import majority_sentence
from convatlas.markdown import markdown_template, markdown_text
from convatlas.plotting import plot_style
from convatlas.segmentation.results import baseline_sentence, instances_sentence
from convatlas.storage.atomic import atomic_write
from convatlas.storage.records import encode_json

DOCUMENT = "evaluation.json"


def check_folder(folder: Path) -> None:
    """Raises UsageError for a file, and for a folder that holds anything but an evaluation."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{printable(folder)} is a file: give a folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / DOCUMENT).exists():
        raise UsageError(
            f"{printable(folder)} is not empty and holds no evaluation: give another folder with --out"
        )


def write_report(folder: Path, document: dict[str, Any]) -> Path:
    """Write the document of `eval`, its report and its figures. Returns the path of report.md. Raises OSError
    when the disk refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / DOCUMENT, msgspec.json.format(encode_json(document), indent=1))
    classes = [printable(row["name"]) for row in document["per_class"]]
    path = folder / "report.md"
    if "ap50" in document:
        template = markdown_template("convatlas.evaluation", "box_report.md.jinja")
        atomic_write(path, template.render(document).encode())
        return path
    if "mean_iou" in document:
        with plot_style():
            pixels = plots.plot_confusion(np.array(document["confusion"]), classes, unit="pixels")
            plots.write_figure(folder / "confusion.png", pixels)
        template = markdown_template("convatlas.evaluation", "mask_report.md.jinja")
        instances = document["instances"] and instances_sentence(document["instances"])
        text = template.render(
            document,
            baseline_sentence=baseline_sentence(document),
            instances_sentence=instances,
            gain_sentence=markdown_text(mask_gain_sentence(document)) if document["models"] > 1 else "",
        )
        atomic_write(path, text.encode())
        return path
    with plot_style():
        reliability = plots.plot_reliability(document["reliability"], document["ece"])
        plots.write_figure(folder / "reliability.png", reliability)
        confusion = plots.plot_confusion(np.array(document["confusion"]), classes)
        plots.write_figure(folder / "confusion.png", confusion)
        if len(document.get("by_size", ())) > 1:
            plots.write_figure(folder / "subsets.png", plots.plot_subsets(document["subsets"]))
    atomic_write(path, _markdown(document).encode())
    return path


def _markdown(document: dict[str, Any]) -> str:
    gain = markdown_text(gain_sentence(document)) if "versus_best" in document else ""
    sizes = size_rows(document) if "by_size" in document else []
    template = markdown_template("convatlas.evaluation", "report.md.jinja")
    majority = majority_sentence(document)
    return template.render(document, gain_sentence=gain, size_rows=sizes, majority_sentence=majority)


def gain_sentence(document: dict[str, Any]) -> str:
    """The gain of an ensemble over its best member, as a sentence."""
    pairs = document["versus_best"]
    low, high = pairs["interval"]
    p = f"p = {pairs['p']:.2g}" if pairs["p"] >= 0.001 else "p < 0.001"
    best = printable(document["members"][pairs["member"]]["weights"])
    return (
        f"Top-1 of the ensemble minus that of its best member, {best}, on the same images: "
        f"{pairs['difference']:+.2f} points (95 % interval {low:.2f} to {high:.2f}; McNemar {p}). "
        f"{pairs['only_second']:,} images are predicted correctly by the ensemble only, "
        f"{pairs['only_first']:,} by that member only."
    )


def mask_gain_sentence(document: dict[str, Any]) -> str:
    """The gain of an ensemble of networks that label pixels over its best member, as a sentence."""
    pairs = document["versus_best"]
    low, high = pairs["interval"]
    best = printable(document["members"][pairs["member"]]["weights"])
    return (
        f"Mean IU of the ensemble minus that of its best member, {best}, on the same images: "
        f"{pairs['difference']:+.2f} points (95 % interval {low:.2f} to {high:.2f}). The ensemble is better "
        f"on {pairs['second_better']:,} images, that member on {pairs['first_better']:,}."
    )


def size_rows(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """A table row for each number of members: size, subsets, and the mean, lowest and highest top-1."""
    rows = []
    for row in document["by_size"]:
        top1 = (f"{row[f'top1_{statistic}']:.2f}" for statistic in ("mean", "lowest", "highest"))
        rows.append((f"{row['size']}", f"{row['subsets']:,}", *top1))
    return rows
