"""`eval`: the command, and its document in words."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json
from convatlas.cli.output import paragraph, print_json, print_table
from convatlas.errors import UsageError, printable


@dataclass
class Eval:
    """Evaluate saved classifiers as the papers do: crops, dense, ensembles; intervals, calibration, per class, confusion."""

    weights: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="WEIGHTS ...", help="Runs' folders or model.safetensors files; several are an ensemble.")
    ]
    data: Annotated[str | None, arg(metavar="DATA", help="Default: the data that they were trained on.")] = None
    split: Annotated[str, arg(help="train, val or test.")] = "test"
    crops: Annotated[str, arg(help="The protocol: center, 10, 12, 144, dense or multiscale (docs/evaluation.md).")] = "center"
    subset: Annotated[Path | None, arg(metavar="FILE", help="Only the images that this file names, one a line.")] = None
    subsets: Annotated[bool, arg(help="Also every subset of the members: no network is asked again for it.")] = False
    out: Annotated[Path | None, arg(metavar="FOLDER", help="Write report.md, its pictures and the document there.")] = None
    json: Json = False

    def __call__(self) -> int:
        if not self.weights:
            raise UsageError("eval needs at least one run's folder or model.safetensors")
        from convatlas.evaluation import evaluate, report

        if self.out is not None:
            report.check_folder(self.out)
        result = evaluate(self.weights, self.data, self.split, self.crops, self.subset, self.subsets)
        for note in result["notes"]:
            print(f"convatlas: {printable(note)}", file=sys.stderr)
        for one in result["unread"]:
            print(f"convatlas: not counted: {printable(one['file'])}: {printable(one['reason'])}", file=sys.stderr)
        page = report.write_report(self.out, result) if self.out is not None else None
        if self.json:
            print_json(result)
        else:
            print_evaluation(result)
            if page is not None:
                print(f"wrote {printable(page)}")
        return 1 if result["unread"] else 0


def print_evaluation(d: dict[str, Any]) -> None:
    """Print the document of `eval`."""
    low, high = d["top1_interval"]
    models = f"{d['models']} networks, " if d["models"] > 1 else ""
    what = "centre crop" if d["crops"] == "center" else f"{d['protocol']['label']} ({d['protocol']['source']})"
    paragraph(f"top-1 {d['top1']:.2f} %, 95 % interval {low:.2f} to {high:.2f}, {d['n']:,} images, {models}{what}", 6)
    if d["top5"] is not None:
        print(f"top-5 {d['top5']:.2f} %")
    print(f"loss  {d['loss']:.4f}, mean negative log-likelihood")
    sure = sum(one["n"] * one["confidence"] for one in d["reliability"] if one["n"]) / d["n"]
    print(f"sure  {sure:.2f} % on average; expected calibration error {d['ece']:.2f} %")
    for text in d["protocol"]["unstated"]:
        paragraph(f"unstated by the paper: {text}", 2)
    _members(d)
    _classes(d)


def _members(d: dict[str, Any]) -> None:
    from convatlas.evaluation.report import gain_sentence, size_rows

    reused = [printable(one["weights"]) for one in d["members"] if one["reused"]]
    if reused:
        print(f"from answers that were kept: {', '.join(reused)}")
    if d["models"] > 1:
        print()
        rows = [(printable(m["weights"]), m["network"], f"{m['top1']:.2f}", f"{m['loss']:.4f}") for m in d["members"]]
        print_table(("weights", "network", "top-1 %", "loss"), rows, right=("top-1 %", "loss"))
        paragraph(gain_sentence(d), 0)
    if "by_size" in d:
        print()
        heads = ("networks", "subsets", "top-1 %, mean", "lowest", "highest")
        print_table(heads, size_rows(d), right=heads)
    print()


def _classes(d: dict[str, Any]) -> None:
    rows, table = d["per_class"], d["confusion"]
    cells = []
    for i, row in enumerate(rows):
        taken_for = max((j for j in range(len(rows)) if j != i), key=lambda j: table[i][j])
        mistake = f"{rows[taken_for]['name']} ({table[i][taken_for]:,})" if table[i][taken_for] else "-"
        accuracy = "-" if row["top1"] is None else f"{row['top1']:.2f}"
        cells.append((printable(row["name"]), f"{row['n']:,}", accuracy, printable(mistake)))
    print_table(("class", "images", "top-1 %", "most often taken for"), cells, right=("images", "top-1 %"))
