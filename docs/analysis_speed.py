"""How fast a network is analysed, beside what a user would run otherwise: torchinfo and fvcore, as in their
documentation.

`make bench-analysis` installs both and calls this. All rows are measured in one process, in turn in every
round: medians, and medians of the ratios of each round. Every analysis starts from the module: no round
uses results of the round before.
"""

import logging
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / ".peers"))

import torch
import torchinfo
from fvcore.nn import FlopCountAnalysis, parameter_count

import convatlas as ca
from convatlas import models

PAGE = Path(__file__).parent / "generated" / "analysis_speed.md"
NUM_ROUNDS = 9
NETWORKS = (
    "alexnet",
    "vgg16",
    "googlenet",
    "inception_v3",
    "resnet50",
    "resnet152",
    "se_resnet50",
    "mobilenet_v1",
    "xception",
    "unet",
    "resnet20_cifar",
    "resnet110_cifar",
)
HEAD = """# How fast a network is analysed

Made by `make bench-analysis`; do not edit. Milliseconds from a module to its report: medians of
{num_rounds} rounds, and how many times as long the others took in the same round. *Report* is `ca.analyze`:
shapes, parameters, multiply-adds, memory, traffic and receptive field of every layer. *All* adds training
memory, design principles and the JSON document. torchinfo {torchinfo} is `summary`, which gives shapes,
parameters and multiply-adds; fvcore 0.1.5.post20221221 is `FlopCountAnalysis` by module with
`parameter_count`. Both compute the network on real numbers. {machine}.

"""


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # fvcore lists the operators that it does not know
    columns = ("network", "input", "report, ms", "all, ms", "torchinfo, ms", "ratio", "fvcore, ms", "ratio")
    rows = [columns, ("---", *["---:"] * (len(columns) - 1))]
    for name in NETWORKS:
        rows.append(network_row(name))
        print("  ".join(rows[-1]), flush=True)
    rows.append(registry_row())
    machine = (
        f"{torch.get_num_threads()} threads, Python {platform.python_version()}, torch {torch.__version__}"
    )
    head = HEAD.format(num_rounds=NUM_ROUNDS, torchinfo=torchinfo.__version__, machine=machine)
    PAGE.write_text(head + "".join(f"| {' | '.join(cells)} |\n" for cells in rows))
    print(f"wrote {PAGE}")


def network_row(name: str) -> tuple[str, ...]:
    shape = models.get_entry(name).input
    model = ca.create_model(name).eval()
    images = torch.randn(1, *shape)

    def fvcore() -> None:
        FlopCountAnalysis(model, images).by_module()
        parameter_count(model)

    functions: list[Callable[[], object]] = [
        lambda: ca.analyze(model, shape),
        lambda: ca.analyze(model, shape).to_json(),
        lambda: torchinfo.summary(model, input_data=images, verbose=0, depth=9),
        fvcore,
    ]
    for function in functions:
        function()
    rounds = [[seconds(function) for function in functions] for _ in range(NUM_ROUNDS)]
    report_times, json_times, torchinfo_times, fvcore_times = (
        [times[i] for times in rounds] for i in range(4)
    )

    def milliseconds(times: list[float]) -> str:
        return f"{1000 * statistics.median(times):.0f}"

    def ratio(times: list[float]) -> str:
        return f"{statistics.median(a / b for a, b in zip(times, report_times, strict=True)):.1f}"

    return (
        f"`{name}`",
        "x".join(map(str, shape)),
        milliseconds(report_times),
        milliseconds(json_times),
        milliseconds(torchinfo_times),
        ratio(torchinfo_times),
        milliseconds(fvcore_times),
        ratio(fvcore_times),
    )


def registry_row() -> tuple[str, ...]:
    """The time to build every network of the atlas on the meta device and to write its full report."""

    def analyze_all() -> None:
        for name in models.list_models():
            with torch.device("meta"):
                model = ca.create_model(name)
            ca.analyze(model, models.get_entry(name).input).to_json()

    count = len(models.list_models())
    return (f"all {count}, built and analysed", "", "", f"{1000 * seconds(analyze_all):.0f}", "", "", "", "")


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
