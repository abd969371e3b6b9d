"""An evaluation as a folder: its document, report.md, and the pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
import numpy as np

from convatlas.errors import UsageError, printable
from convatlas.evaluation import plots
from convatlas.storage.atomic import atomic_write

DOCUMENT = "evaluation.json"


def check_folder(folder: Path) -> None:
    """Raises UsageError for a folder that holds anything but an evaluation."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{printable(folder)} is a file: give a folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / DOCUMENT).exists():
        raise UsageError(f"{printable(folder)} is not empty and holds no evaluation: give another folder with --out")


def write_report(folder: Path, document: dict[str, Any]) -> Path:
    """`document` is that of `eval`. Returns the path of report.md. Raises OSError when the disk refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / DOCUMENT, msgspec.json.format(msgspec.json.encode(document), indent=1))
    classes = [printable(row["name"]) for row in document["per_class"]]
    with matplotlib.rc_context(plots.STYLE):
        plots.save(folder / "reliability.png", plots.reliability(document["reliability"], document["ece"]))
        plots.save(folder / "confusion.png", plots.confusion(np.array(document["confusion"]), classes))
        if len(document.get("by_size", ())) > 1:
            plots.save(folder / "subsets.png", plots.subsets(document["subsets"]))
    path = folder / "report.md"
    atomic_write(path, _markdown(document).encode())
    return path


def _markdown(d: dict[str, Any]) -> str:
    low, high = d["top1_interval"]
    names = [printable(one["weights"]) for one in d["members"]]
    top5 = f", top-5 {d['top5']:.2f} %" if d["top5"] is not None else ""
    averages = f"{d['protocol']['average']} of {max(one['windows'] for one in d['members'])} windows"
    facts = {
        "networks": ", ".join(f"{_cell(one['weights'])} ({one['network']})" for one in d["members"]),
        "data": f"{_cell(d['data'])}, {_cell(d['split'])}" + (f", the images that {_cell(d['subset'])} names" if d["subset"] else ""),
        "crops": f"{d['crops']}: {d['protocol']['label']} ({d['protocol']['source']})"
        + (f"; {averages}" if d["crops"] != "center" else ""),
    }
    parts = [
        f"# {'Ensemble of ' + str(len(names)) if len(names) > 1 else names[0]} on {_cell(d['data'])}",
        f"**Top-1 {d['top1']:.2f} %** (95 % interval {low:.2f} to {high:.2f}, {d['n']:,} images){top5}; mean negative log-likelihood "
        f"{d['loss']:.4f}; expected calibration error {d['ece']:.2f} %.",
        "| | |\n|---|---|\n" + "\n".join(f"| {name} | {text} |" for name, text in facts.items()),
        "\n".join([f"- unstated, ours: {text}" for text in d["protocol"]["unstated"]] + [f"- {printable(note)}" for note in d["notes"]]),
    ]
    if len(names) > 1:
        rows = [(_cell(one["weights"]), f"{one['top1']:.2f}", f"{one['loss']:.4f}") for one in d["members"]]
        parts += ["## Members", _table(("weights", "top-1 %", "loss"), rows), gain_sentence(d)]
    if "by_size" in d:
        parts += ["## Subsets", _table(("networks", "subsets", "top-1 %, mean", "lowest", "highest"), size_rows(d))]
        if len(d["by_size"]) > 1:
            parts.append("![Top-1 by the number of networks averaged](subsets.png)")
    parts += [
        "## Calibration\n\nWhether it is right as often as it says.\n\n![Top-1 by confidence](reliability.png)",
        "## Confusion\n\nRows are the true classes, columns the predicted ones.\n\n![Confusion matrix](confusion.png)",
        _table(
            ("class", "images", "top-1 %"),
            [(_cell(r["name"]), f"{r['n']:,}", "-" if r["top1"] is None else f"{r['top1']:.2f}") for r in d["per_class"]],
        ),
    ]
    if d["unread"]:
        unread = "\n".join(f"- {_cell(one['file'])}: {_cell(one['reason'])}" for one in d["unread"])
        parts.append(f"## Not counted\n\n{unread}")
    return "\n\n".join(part for part in parts if part) + "\n"


def gain_sentence(d: dict[str, Any]) -> str:
    """What the ensemble adds to its best member, in a sentence."""
    found = d["against_best"]
    low, high = found["interval"]
    p = f"p = {found['p']:.2g}" if found["p"] >= 0.001 else "p < 0.001"
    best = printable(d["members"][found["member"]]["weights"])
    return (
        f"Together they are {found['difference']:+.2f} points from the best of them, {best}, on the same images (95 % interval {low:.2f} "
        f"to {high:.2f}; McNemar {p}): {found['only_second']:,} only they got right, {found['only_first']:,} only it."
    )


def size_rows(d: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row each number of members."""
    return [
        (f"{one['size']}", f"{one['subsets']:,}", *(f"{one[f'top1_{which}']:.2f}" for which in ("mean", "lowest", "highest")))
        for one in d["by_size"]
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = "|---|" + "---:|" * (len(heads) - 1)
    return "\n".join([f"| {' | '.join(heads)} |", ruler, *(f"| {' | '.join(row)} |" for row in rows)])


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;")
