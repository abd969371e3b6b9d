"""Write docs/generated/inference_speed.md: `convatlas bench inference`, start-up, and what int8 costs and gives (make bench-inference).

What was measured is kept in inference_speed.json, part by part: `--only PART` measures one anew, `--render` none.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convatlas.classifier import ClassifierMetadata

FOLDER = Path(__file__).parent / "generated"
PAGE, KEPT = FOLDER / "inference_speed.md", FOLDER / "inference_speed.json"
NETWORKS = ("resnet50", "inception_v3")
RUNS = ("runs/results/resnet20_cifar-small-0", "runs/results/inception_v3-small-0", "runs/results/photos")
FAMILIES = ("alexnet", "vgg11", "googlenet", "inception_v3", "resnet20_cifar", "mobilenet_v1", "shufflenet_v2")
TRAINED = (*(f"runs/results/{name}-small-0" for name in FAMILIES), "runs/results/photos")
PARTS = (*NETWORKS, "start", "peak", "int8", "same")


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--only", choices=PARTS, action="append")
    asked.add_argument("--render", action="store_true")
    words = asked.parse_args()
    found = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for part in () if words.render else words.only or PARTS:
        found[part] = bench(part) if part in NETWORKS else {"start": start, "peak": peak, "int8": int8, "same": same}[part]()
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text("\n".join(page(found)) + "\n")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "convatlas", *words]


def bench(model: str) -> Any:
    return json.loads(
        subprocess.run(command("bench", "inference", model, "--compile", "--json"), check=True, stdout=subprocess.PIPE).stdout
    )


def start() -> Any:
    """Seconds from `convatlas predict RESNET50 one.jpg` to its end: with nothing in the cache, and then the median of three more."""
    from convatlas.benchmark.data import write_photographs
    from convatlas.benchmark.inference import classifier_of
    from convatlas.classifier import write_model_file

    with tempfile.TemporaryDirectory() as scratch:
        write_photographs(Path(scratch, "photos"))
        file, photo = Path(scratch, "model.safetensors"), next(Path(scratch, "photos").rglob("*.jpg"))
        made = classifier_of("resnet50")
        write_model_file(file, made.metadata, made.model, made.normalizer)
        environment, seconds = os.environ | {"CONVATLAS_CACHE": f"{scratch}/cache"}, []
        for _ in range(4):
            began = time.perf_counter()
            subprocess.run(command("predict", str(file), str(photo), "--jsonl"), check=True, capture_output=True, env=environment)
            seconds.append(time.perf_counter() - began)
    return {"first": seconds[0], "again": statistics.median(seconds[1:])}


def peak() -> Any:
    """The largest FLOP/s of a square matrix product, in fp32 and bf16."""
    import torch

    best = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        rates = []
        for n in (1024, 2048, 4096):
            a, b = (torch.randn(n, n).to(dtype) for _ in range(2))
            for _ in range(5):
                began = time.perf_counter()
                a @ b
                rates.append(2 * n**3 / (time.perf_counter() - began))
        best[name] = max(rates)
    return best


def int8() -> Any:
    """Of each run that is there: top-1 on its validation images before and after, and how fast both are on batches of 32."""
    return [one for run in RUNS if Path(run).is_dir() for one in [_int8(run)]]


def _int8(run: str) -> dict[str, Any]:
    import torch

    import convatlas as ca
    from convatlas.inference import openvino

    classifier = ca.load(run)
    with tempfile.TemporaryDirectory() as scratch:
        words = command("export", run, "--to", "int8", "--out", f"{scratch}/int8", "--max-drop", "100", "--json")
        found = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
        images = torch.randint(0, 256, (320, *classifier.metadata.preprocessing.shape), dtype=torch.uint8)
        auto = ca.inference.engine(classifier, images[:32])
        small = openvino.Runner(openvino.read_model(Path(scratch, "int8", "model.xml")), auto.precision)
        rates: dict[str, list[float]] = {"auto": [], "int8": []}
        for _ in range(6):  # in turn; the first warms up
            for name, infer in (("auto", auto), ("int8", small)):
                began = time.perf_counter()
                for piece in torch.split(images, 32):
                    infer(piece)
                rates[name].append(len(images) / (time.perf_counter() - began))
    return (
        found
        | _named(classifier.metadata)
        | {"engine": auto.name}
        | {name: statistics.median(values[1:]) for name, values in rates.items()}
    )


def _named(card: "ClassifierMetadata") -> dict[str, Any]:
    data = str(card.provenance["data"])
    what = {"network": card.network.name, "width": card.network.arguments.get("width", 1), "size": card.preprocessing.size[0]}
    return what | {"data": "composites of docs/photos.md" if data.startswith("folder:") else data}


def same() -> Any:
    """Of each run that is there: how many of its test images every engine here answers as PyTorch does in fp32, without and with bf16."""
    return [one for run in TRAINED if Path(run).is_dir() for one in [_same(run)]]


def _same(run: str) -> dict[str, Any]:
    import numpy as np
    import torch

    import convatlas as ca
    from convatlas.data import open_dataset
    from convatlas.inference import eager, onnx, openvino
    from convatlas.runtime.device import best_precision, select_device

    classifier = ca.load(run)
    split, geometry = open_dataset(str(classifier.metadata.provenance["data"])).splits["test"], classifier.metadata.preprocessing
    images, _ = geometry.load_batch(split.images, np.arange(len(split)))
    labels, answers = torch.from_numpy(split.labels), dict[str, torch.Tensor]()
    for engine in (eager, openvino, onnx):
        name, precisions = engine.__name__.rpartition(".")[2], {"fp32", "fp32" if engine is onnx else best_precision(select_device("cpu"))}
        for precision in sorted(precisions, reverse=True):
            infer = ca.inference.engine(classifier, images[:8], name, precision)
            answers[f"{name} {precision}"] = torch.cat([infer(part).argmax(1) for part in images.split(32)])
    expected = answers["eager fp32"]
    top1 = {name: 100 * float((found == labels).float().mean()) for name, found in answers.items()}
    return _named(classifier.metadata) | {
        "n": len(labels),
        "top1": top1,
        "same": {name: 100 * float((found == expected).float().mean()) for name, found in answers.items()},
    }


def page(found: dict[str, Any]) -> list[str]:
    from convatlas.benchmark import inference as inference

    lines = [
        "# How fast images are classified",
        "",
        f"Made by `make bench-inference`; do not edit. {' '.join((inference.__doc__ or '').split())}",
    ]
    for model in NETWORKS:
        if model in found:
            lines += ["", *_table(found[model], found.get("peak"))]
    if "start" in found:
        first, again = found["start"]["first"], found["start"]["again"]
        lines += ["", "## The first answer", ""]
        lines += [
            f"`convatlas predict` of one photograph by ResNet-50, from the command to its end: {first:.1f} s the first time, when",
            f"the model is converted, {again:.1f} s from then on (median of three). Importing PyTorch is in both.",
        ]
    if found.get("int8"):
        lines += ["", "## What int8 costs", "", *_drops(found["int8"])]
    if found.get("same"):
        lines += ["", "## Whether the engines answer the same", "", *_agreements(found["same"])]
    return lines


def _table(document: dict[str, Any], peak: dict[str, float] | None) -> list[str]:
    from convatlas.models import counts

    rows = {row["name"]: row for row in document["rows"]}
    rounds = f"medians of {document['rounds']} rounds" if document["rounds"] > 1 else "one round only"
    lines = [
        f"## {document['model']}",
        "",
        f"{document['machine']}; images of {document['input']}, {rounds}, rows in turn. Baseline: {document['baseline']}.",
        "",
        "| row | images/s | ms an image | to baseline | to it with our allocator settings | peak MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        rate, ratios = row["images_per_second"], f"{row['ratio']:.2f} | {row['ratio_tuned']:.2f}"
        lines.append(f"| {name} | {rate:,.1f} | {1000 / rate:,.1f} | {ratios} | {row['memory_bytes'] / 1e6:,.0f} |")
    rates, remarks = {name: row["images_per_second"] for name, row in rows.items()}, []
    if "openvino-direct" in rows:
        remarks.append(f"`auto` gives {rates['auto'] / rates['openvino-direct']:.2f} times `openvino-direct`.")
    if "int8" in rows:
        remarks.append(f"`int8` gives {rates['int8'] / rates['auto']:.2f} times `auto`.")
    if peak:
        flops = 2 * counts(document["model"])["macs"] * rates["auto"]
        share = f"{flops / 1e9:,.0f} GFLOP/s, {100 * flops / peak['bf16']:.0f} % of the former"
        remarks.append(
            f"Of square matrix products the fastest runs at {peak['bf16'] / 1e9:,.0f} GFLOP/s in bf16 and {peak['fp32'] / 1e9:,.0f}"
        )
        remarks.append(f"in fp32 here; `auto` computes {share}: no engine in bf16 could be much faster.")
    return [*lines, "", *remarks, *([document["remark"]] if "remark" in document else [])]


def _drops(found: list[dict[str, Any]]) -> list[str]:
    lines = [
        "`convatlas export RUN --to int8`: ranges from training images, top-1 in percent on validation images before (fp32) and after;",
        "speed on batches of 32 beside the engine that `auto` takes.",
        "",
        "| network | data | fp32 | int8 | drop | images | auto, images/s | int8, images/s | times |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in found:
        network = f"{one['network']}, width {one['width']:g}, {one['size']}x{one['size']}"
        accuracy = f"{one['before']:.2f} | {one['after']:.2f} | {one['drop']:.2f} | {one['n']:,}"
        speed = f"{one['auto']:,.0f} ({one['engine']}) | {one['int8']:,.0f} | {one['int8'] / one['auto']:.2f}"
        lines.append(f"| {network} | {one['data']} | {accuracy} | {speed} |")
    return lines


def _agreements(found: list[dict[str, Any]]) -> list[str]:
    engines = [name for name in found[0]["same"] if name != "eager fp32"]
    lines = [
        "Test images, in percent, of which an engine names the class that PyTorch names in fp32; in brackets, by how many points of top-1",
        "that makes it better or worse.",
        "",
        f"| network | data | images | top-1 | {' | '.join(engines)} |",
        f"|---|---|---:|---:|{'---:|' * len(engines)}",
    ]
    for one in found:
        top1, same = one["top1"], one["same"]
        cells = " | ".join(f"{same[name]:.2f} ({top1[name] - top1['eager fp32']:+.2f})" for name in engines)
        network = f"{one['network']}, width {one['width']:g}, {one['size']}x{one['size']}"
        lines.append(f"| {network} | {one['data']} | {one['n']:,} | {top1['eager fp32']:.2f} | {cells} |")
    return lines


if __name__ == "__main__":
    main()
