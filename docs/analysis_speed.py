"""How fast a network is read, beside what a user would run otherwise: torchinfo and fvcore as their documentation has them.

`make bench-analysis` installs both and calls this. Every row is measured in turn, round by round, in one process; medians, and medians of
the ratios of each round. Each reading starts from the module: nothing is kept from the round before.
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
ROUNDS = 9
NETWORKS = ("alexnet", "vgg16", "googlenet", "inception_v3", "resnet50", "resnet152", "se_resnet50", "mobilenet_v1", "xception", "unet")
SMALL = ("resnet20_cifar", "resnet110_cifar")
HEAD = """# How fast a network is read

Made by `make bench-analysis`; do not edit. Milliseconds from a module to its reading, medians of {rounds} rounds, and how many times as
long the others took in the same round. *Read* is `ca.analyze`: shapes, parameters, multiply-adds, memory, traffic and receptive field of
every layer; *all* adds training memory, principles and the JSON document. torchinfo {torchinfo} is `summary`, which gives shapes,
parameters and multiply-adds, fvcore 0.1.5.post20221221 `FlopCountAnalysis` by module with `parameter_count`; both compute the network on
real numbers. {machine}.

"""


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # fvcore lists the operators that it does not know
    columns = ("network", "input", "read, ms", "all, ms", "torchinfo, ms", "ratio", "fvcore, ms", "ratio")
    lines = [columns, ("---", *["---:"] * (len(columns) - 1))]
    for name in (*NETWORKS, *SMALL):
        lines.append(row(name))
        print("  ".join(lines[-1]), flush=True)
    lines.append(registry())
    machine = f"{torch.get_num_threads()} threads, Python {platform.python_version()}, torch {torch.__version__}"
    head = HEAD.format(rounds=ROUNDS, torchinfo=torchinfo.__version__, machine=machine)
    PAGE.write_text(head + "".join(f"| {' | '.join(cells)} |\n" for cells in lines))
    print(f"wrote {PAGE}")


def row(name: str) -> tuple[str, ...]:
    shape = models.get_entry(name).input
    model, images = ca.create_model(name).eval(), torch.randn(1, *shape)

    def fvcore() -> None:
        FlopCountAnalysis(model, images).by_module()
        parameter_count(model)

    ways: list[Callable[[], object]] = [
        lambda: ca.analyze(model, shape),
        lambda: ca.analyze(model, shape).to_json(),
        lambda: torchinfo.summary(model, input_data=images, verbose=0, depth=9),
        fvcore,
    ]
    for way in ways:
        way()
    times = [[seconds(way) for way in ways] for _ in range(ROUNDS)]
    ours, everything, info, counted = ([t[i] for t in times] for i in range(4))

    def shown(values: list[float]) -> str:
        return f"{1000 * statistics.median(values):.0f}"

    def ratio(values: list[float]) -> str:
        return f"{statistics.median(a / b for a, b in zip(values, ours, strict=True)):.1f}"

    size = "x".join(map(str, shape))
    return (f"`{name}`", size, shown(ours), shown(everything), shown(info), ratio(info), shown(counted), ratio(counted))


def registry() -> tuple[str, ...]:
    """Every network of the atlas, built on the meta device and read with all that there is."""

    def read() -> None:
        for name in models.list_models():
            with torch.device("meta"):
                model = ca.create_model(name)
            ca.analyze(model, models.get_entry(name).input).to_json()

    count = len(models.list_models())
    return (f"all {count}, built and read", "", "", f"{1000 * seconds(read):.0f}", "", "", "", "")


def seconds(way: Callable[[], object]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
