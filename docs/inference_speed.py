"""Write docs/generated/inference_speed.md: `convatlas bench inference`, start-up time, and the accuracy and
speed of int8 (make bench-inference).

Measurements are stored in inference_speed.json by name: `--only NAME` measures one again, `--render` measures
none.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import convatlas as ca
from convatlas.benchmark import inference, inference_rows
from convatlas.benchmark.data import write_photographs
from convatlas.classifier import ClassifierMetadata, write_model_file
from convatlas.data import open_dataset
from convatlas.inference import eager, onnx, openvino
from convatlas.models import golden_counts
from convatlas.runtime.device import best_precision, select_device

GENERATED = Path(__file__).parent / "generated"
PAGE = GENERATED / "inference_speed.md"
STORE = GENERATED / "inference_speed.json"
NETWORKS = ("resnet50", "inception_v3")
RUNS = Path("runs/results")
INT8_RUNS = ("resnet20_cifar-small-0", "inception_v3-small-0", "photos")
PARITY_RUNS = (
    *("alexnet-small-0", "vgg11-small-0", "googlenet-small-0", "inception_v3-small-0"),
    *("resnet20_cifar-small-0", "mobilenet_v1-small-0", "shufflenet_v2-small-0", "photos"),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=MEASUREMENTS, action="append")
    parser.add_argument("--render", action="store_true")
    arguments = parser.parse_args()
    store = json.loads(STORE.read_text()) if STORE.exists() else {}
    for name in () if arguments.render else arguments.only or MEASUREMENTS:
        store[name] = MEASUREMENTS[name]()
        STORE.write_text(json.dumps(store, indent=1) + "\n")
    PAGE.write_text("\n".join(page(store)) + "\n")


def convatlas_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "convatlas", *arguments]


def run_json(*arguments: str) -> Any:
    """Run a command of convatlas and return its JSON document."""
    command = convatlas_command(*arguments, "--json")
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure_start() -> dict[str, float]:
    """Seconds from `convatlas predict RESNET50 one.jpg` to its end: with an empty cache, and the median of
    three more."""
    with tempfile.TemporaryDirectory() as scratch:
        write_photographs(Path(scratch, "photos"))
        file = Path(scratch, "model.safetensors")
        photograph = next(Path(scratch, "photos").rglob("*.jpg"))
        classifier = inference_rows.untrained_classifier("resnet50")
        write_model_file(file, classifier.metadata, classifier.model, classifier.normalizer)
        command = convatlas_command("predict", str(file), str(photograph), "--jsonl")
        environment = os.environ | {"CONVATLAS_CACHE": f"{scratch}/cache"}
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            seconds.append(time.perf_counter() - start)
    return {"first": seconds[0], "again": statistics.median(seconds[1:])}


def measure_peak_flops() -> dict[str, float]:
    """The largest FLOP/s of a square matrix product, in fp32 and bf16."""
    peaks = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        rates = []
        for n in (1024, 2048, 4096):
            a, b = (torch.randn(n, n).to(dtype) for _ in range(2))
            for _ in range(5):
                start = time.perf_counter()
                a @ b
                rates.append(2 * n**3 / (time.perf_counter() - start))
        peaks[name] = max(rates)
    return peaks


def measure_int8() -> list[dict[str, Any]]:
    """For each existing run: validation top-1 before and after quantisation, and the speed of both on batches
    of 32."""
    return [_measure_int8_run(run) for run in INT8_RUNS if (RUNS / run).is_dir()]


def _measure_int8_run(run: str) -> dict[str, Any]:
    classifier = ca.load(RUNS / run)
    with tempfile.TemporaryDirectory() as scratch:
        options = ("--to", "int8", "--out", f"{scratch}/int8", "--max-drop", "100")
        document: dict[str, Any] = run_json("export", str(RUNS / run), *options)
        images = torch.randint(0, 256, (320, *classifier.metadata.preprocessing.shape), dtype=torch.uint8)
        auto = ca.inference.engine(classifier.inference_module(), images[:32])
        int8_model = openvino.read_model(Path(scratch, "int8", "model.xml"))
        engines: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"auto": auto}
        engines["int8"] = openvino.Runner(int8_model, auto.precision)
        rates: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(6):  # in turn; the first round warms up
            for name, infer in engines.items():
                start = time.perf_counter()
                for batch in torch.split(images, 32):
                    infer(batch)
                rates[name].append(len(images) / (time.perf_counter() - start))
    speeds = {name: statistics.median(values[1:]) for name, values in rates.items()}
    return document | _describe(classifier.metadata) | {"engine": auto.name} | speeds


def _describe(metadata: ClassifierMetadata) -> dict[str, Any]:
    data = str(metadata.provenance["data"])
    return {
        "network": metadata.network.name,
        "width": metadata.network.arguments.get("width", 1),
        "size": metadata.preprocessing.input_size[0],
        "data": "composites of docs/photos.md" if data.startswith("folder:") else data,
    }


def measure_parity() -> list[dict[str, Any]]:
    """For each existing run: the share of test images for which every engine predicts the class that PyTorch
    predicts in fp32, with and without bf16."""
    return [_measure_parity_of_run(run) for run in PARITY_RUNS if (RUNS / run).is_dir()]


def _measure_parity_of_run(run: str) -> dict[str, Any]:
    classifier = ca.load(RUNS / run)
    split = open_dataset(str(classifier.metadata.provenance["data"])).splits["test"]
    images, _ = classifier.metadata.preprocessing.load_batch(split.images, np.arange(len(split)))
    module = classifier.inference_module()
    labels = torch.from_numpy(split.labels)
    predictions: dict[str, torch.Tensor] = {}
    for engine in (eager, openvino, onnx):
        name = engine.__name__.rpartition(".")[2]
        precisions = {"fp32", "fp32" if engine is onnx else best_precision(select_device("cpu"))}
        for precision in sorted(precisions, reverse=True):
            infer = ca.inference.engine(module, images[:8], name, precision)
            classes = [infer(batch).argmax(1) for batch in torch.split(images, 32)]
            predictions[f"{name} {precision}"] = torch.cat(classes)

    def agreement(expected: torch.Tensor) -> dict[str, float]:
        return {
            name: 100 * float((classes == expected).float().mean()) for name, classes in predictions.items()
        }

    return _describe(classifier.metadata) | {
        "n": len(labels),
        "top1": agreement(labels),
        "same": agreement(predictions["eager fp32"]),
    }


MEASUREMENTS: dict[str, Callable[[], Any]] = {
    **{model: partial(run_json, "bench", "inference", model, "--compile") for model in NETWORKS},
    "start": measure_start,
    "peak": measure_peak_flops,
    "int8": measure_int8,
    "same": measure_parity,
}


def page(store: dict[str, Any]) -> list[str]:
    lines = [
        "# How fast images are classified",
        "",
        f"Made by `make bench-inference`; do not edit. {' '.join((inference.__doc__ or '').split())}",
    ]
    for model in NETWORKS:
        if model in store:
            lines += ["", *_speed_section(store[model], store.get("peak"))]
    if "start" in store:
        first, median = store["start"]["first"], store["start"]["again"]
        lines += [
            "",
            "## Time to the first prediction",
            "",
            f"`convatlas predict` of one photograph by ResNet-50, from the command to its end: {first:.1f} s "
            f"the first time, when the model is converted, and {median:.1f} s from then on (median of "
            "three). Both include importing PyTorch.",
        ]
    if store.get("int8"):
        lines += ["", "## Accuracy and speed of int8", "", *_int8_section(store["int8"])]
    if store.get("same"):
        lines += ["", "## Agreement of the engines", "", *_parity_section(store["same"])]
    return lines


def _speed_section(document: dict[str, Any], peak: dict[str, float] | None) -> list[str]:
    rounds = f"medians of {document['rounds']} rounds" if document["rounds"] > 1 else "one round only"
    lines = [
        f"## {document['model']}",
        "",
        f"{document['machine']}; images of {document['input']}, {rounds}, rows in turn. "
        f"Baseline: {document['baseline']}.",
        "",
        "| row | images/s | ms an image | to baseline | to it with our allocator settings | peak MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in document["rows"]:
        rate = row["images_per_second"]
        lines += table_row(
            row["name"],
            f"{rate:,.1f}",
            f"{1000 / rate:,.1f}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_tuned']:.2f}",
            f"{row['memory_bytes'] / 1e6:,.0f}",
        )
    rates = {row["name"]: row["images_per_second"] for row in document["rows"]}
    remarks = []
    if "openvino-direct" in rates:
        ratio = rates["auto"] / rates["openvino-direct"]
        remarks.append(f"`auto` is {ratio:.2f} times as fast as `openvino-direct`.")
    if "int8" in rates:
        remarks.append(f"`int8` is {rates['int8'] / rates['auto']:.2f} times as fast as `auto`.")
    if peak:
        flops = 2 * golden_counts(document["model"])["macs"] * rates["auto"]
        remarks += [
            f"The fastest square matrix product runs here at {peak['bf16'] / 1e9:,.0f} GFLOP/s in bf16 and "
            f"at {peak['fp32'] / 1e9:,.0f} in fp32. `auto` computes {flops / 1e9:,.0f} GFLOP/s, "
            f"{100 * flops / peak['bf16']:.0f} % of the former: no engine in bf16 could be much faster.",
        ]
    if "remark" in document:
        remarks.append(document["remark"])
    return [*lines, "", *remarks]


def _int8_section(runs: list[dict[str, Any]]) -> list[str]:
    lines = [
        "`convatlas export RUN --to int8`: ranges from training images; top-1 in percent on validation "
        "images before (fp32) and after; speed on batches of 32, beside the engine that `auto` takes.",
        "",
        "| network | data | fp32 | int8 | drop | images | auto, images/s | int8, images/s | times |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        lines += table_row(
            _network_cell(run),
            run["data"],
            f"{run['before']:.2f}",
            f"{run['after']:.2f}",
            f"{run['drop']:.2f}",
            f"{run['n']:,}",
            f"{run['auto']:,.0f} ({run['engine']})",
            f"{run['int8']:,.0f}",
            f"{run['int8'] / run['auto']:.2f}",
        )
    return lines


def _parity_section(runs: list[dict[str, Any]]) -> list[str]:
    engines = [name for name in runs[0]["same"] if name != "eager fp32"]
    lines = [
        "The share of test images, in percent, for which an engine predicts the class that PyTorch predicts "
        "in fp32; in brackets, the difference in top-1, in points.",
        "",
        f"| network | data | images | top-1 | {' | '.join(engines)} |",
        f"|---|---|---:|---:|{'---:|' * len(engines)}",
    ]
    for run in runs:
        top1, same = run["top1"], run["same"]
        lines += table_row(
            _network_cell(run),
            run["data"],
            f"{run['n']:,}",
            f"{top1['eager fp32']:.2f}",
            *(f"{same[name]:.2f} ({top1[name] - top1['eager fp32']:+.2f})" for name in engines),
        )
    return lines


def table_row(*cells: str) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _network_cell(run: dict[str, Any]) -> str:
    return f"{run['network']}, width {run['width']:g}, {run['size']}x{run['size']}"


if __name__ == "__main__":
    main()
