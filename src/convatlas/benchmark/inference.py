"""`bench inference`: images a second of a trained network, beside what a user would run otherwise. Each row runs in a process of its own.

`baseline` is torchvision as its documentation has it: eager, fp32, channels first, the allocator as it comes; where torchvision is not
installed, our edition of its network run in that way. `baseline-tuned` is the same with our allocator settings. `openvino-direct` is
OpenVINO called by hand as its documentation shows: the model converted, compiled for this batch, called. `int8` has its ranges from
random images: its speed does not depend on them. Ours take uint8 images and standardise them; the baselines are given floats.

Rows without a remark classify batches of 32. `batch 1` is the latency of one image. `files` is a folder of JPEGs of 500x375 from the
disk to the probabilities: for the baselines a loop over the files as torchvision's documentation has it (`dataloader`: in batches of
32, two worker processes), for ours `predict`.

Where there is a CUDA device, that is measured, on batches of 256: `baseline-compiled` and `timm-compiled` are torchvision's and timm's
networks in the precision of ours, channels-last and compiled, given floats that lie on the device; ours are given uint8 on the CPU.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from convatlas import models
from convatlas.benchmark.data import write_photographs
from convatlas.benchmark.harness import run_in_subprocess, run_interleaved
from convatlas.benchmark.peers import import_peer, is_installed, timm_has, torchvision_has
from convatlas.classifier import FORMAT, Classifier, ClassifierMetadata
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import center_crop_preprocessing
from convatlas.errors import UserError, unknown_name
from convatlas.export import quantization
from convatlas.inference import onnx, openvino, selection
from convatlas.inference.graph import prepare_module
from convatlas.runtime import hardware
from convatlas.runtime.compilation import can_compile
from convatlas.runtime.device import best_precision, select_device
from convatlas.runtime.memory import peak_memory_bytes, tune_malloc
from convatlas.runtime.runtime import Runtime
from convatlas.storage.cache import cached_folder, folder_key

BATCH, CUDA_BATCH, SECONDS, MEAN, STD = 32, 256, 4.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILES = 96  # of the folder, which the slowest row classifies once to warm up and once for the clock
PARTS: dict[str, tuple[str, ...]] = {
    "": ("baseline", "baseline-tuned", "eager", "compile", "onnx", "openvino-direct", "auto", "int8"),
    ", batch 1": ("baseline", "baseline-tuned", "eager", "onnx", "openvino-direct", "auto", "int8"),
    ", files": ("baseline", "baseline-tuned", "dataloader", "auto"),
}
CUDA_ROWS = ("baseline", "baseline-tuned", "baseline-compiled", "timm-compiled", "eager", "compile")
CUDA_PARTS: dict[str, tuple[str, ...]] = {"": CUDA_ROWS, ", batch 1": CUDA_ROWS}


def benchmark_inference(model: str, rounds: int, compile: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """The document of `bench inference`: rows in turn, `rounds` times, medians; ratios to the baselines of the same kind of work."""
    entry, device = models.get_entry(model), select_device()
    parts = PARTS if device.type == "cpu" else CUDA_PARTS
    lacking = {name: _lacks(name, model, compile) for names in parts.values() for name in names}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        if ", files" in parts:
            write_photographs(Path(scratch))
        for kind, names in parts.items():
            rows += measure_part(model, kind, [name for name in names if not lacking[name]], rounds, Path(scratch), say)
    for name, lack in lacking.items():
        if lack:
            say(f"{name} is left out: it needs {lack}")
    runtime = Runtime(device, best_precision(device))
    peak, macs = hardware.measure_device(device, runtime.precision).flops[runtime.precision], models.counts(model)["macs"]
    for row in rows:
        row["share"] = 100 * row["images_per_second"] * 2 * macs / peak
    return {
        "kind": "inference",
        "model": model,
        "input": "x".join(map(str, entry.input)),
        "batch": _batch(device),
        "rounds": rounds,
        "baseline": "torchvision" if torchvision_has(model) else "our edition of it",
        "peak_flops": peak,
        "machine": runtime.describe(),
        "rows": rows,
    }


def _batch(device: torch.device) -> int:
    return BATCH if device.type == "cpu" else CUDA_BATCH


def measure_part(model: str, kind: str, names: list[str], rounds: int, scratch: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of one kind of work, a key of PARTS."""

    def one(name: str) -> dict[str, float]:
        row = name + kind
        return run_in_subprocess(f"{model}, {row}", "bench", "inference", model, "--row", row, "--photos", str(scratch))

    found = run_interleaved(names, rounds, one, lambda line: say(f"{line}{kind}"))
    return [row | {"name": row["name"] + kind} for row in found]


def measure_row(model: str, row: str, scratch: Path) -> dict[str, float]:
    """Images a second and peak memory of one row, in this process."""
    name, _, remark = row.partition(", ")
    device = select_device()
    parts = PARTS if device.type == "cpu" else CUDA_PARTS
    known = [name + kind for kind in parts for name in parts[kind]]
    if row not in known:
        raise unknown_name("row", row, known)
    if name not in ("baseline", "dataloader"):
        tune_malloc()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    network, size = _network(model)
    if remark == "files":
        work: Callable[[], int] = _FILES[name](model, network, size, sorted(scratch.rglob("*.jpg"))[:FILES])
    else:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (1 if remark else _batch(device), *size), generator=generator, dtype=torch.uint8)
        run = _ENGINES[name](model, network, images)
        work = lambda: len(run())  # noqa: E731
    began = time.perf_counter()
    work()
    first = time.perf_counter() - began
    for _ in range(2 if first < SECONDS / 4 else 0):
        work()
    began, seen = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < SECONDS:
        seen += work()
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_memory_bytes()
    return {"images_per_second": seen / elapsed, "memory_bytes": memory}


def _lacks(row: str, model: str, compile: bool) -> str | None:
    """What a row needs that is not here."""
    if row.startswith("timm") and not timm_has(model):
        return f"timm, and its {model}"
    if "compile" in row:
        return None if compile and can_compile(select_device()) else "a C++ compiler and --compile: it takes half a minute a round"
    needed: dict[str, Callable[[], str | None]] = {
        "onnx": onnx.missing_requirement,
        "openvino-direct": openvino.missing_requirement,
        "int8": quantization.missing_requirement,
    }
    return needed[row]() if row in needed else None


def _network(model: str) -> tuple[models.Network, tuple[int, int, int]]:
    edition = "torchvision" if "torchvision" in models.editions(model) else "paper"
    return models.create_model(model, edition).eval(), models.get_entry(model).input


def _eager(model: str, network: models.Network, images: Tensor) -> Callable[[], Tensor]:
    device = select_device()
    baseline, batch = _baseline(model, network).to(device), (images.float() / 255).to(device)
    return _waited(device, lambda: baseline(batch))


def _compiled(library: str) -> Callable[[str, models.Network, Tensor], Callable[[], Tensor]]:
    """Their network as ours is run on a GPU."""

    def run(model: str, network: models.Network, images: Tensor) -> Callable[[], Tensor]:
        device = select_device()
        runtime = Runtime(device, best_precision(device))
        theirs = import_peer("timm").create_model(model).eval() if library == "timm" else _baseline(model, network)
        compiled, batch = torch.compile(runtime.to_device(theirs)), (images.float() / 255).to(device, memory_format=torch.channels_last)

        def call() -> Tensor:
            with runtime.autocast():
                logits: Tensor = compiled(batch)
            return logits

        return _waited(device, call)

    return run


def _waited(device: torch.device, call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        found = call()
        hardware.synchronize(device)
        return found

    return run


def _baseline(model: str, network: models.Network) -> nn.Module:
    if not torchvision_has(model):
        return network
    found: nn.Module = getattr(import_peer("torchvision.models"), model)(weights=None).eval()
    return found


def _direct(model: str, network: models.Network, images: Tensor) -> Callable[[], Any]:
    import warnings

    ov = openvino.library()
    batch = images.float() / 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = ov.convert_model(_baseline(model, network), example_input=batch)
    converted.reshape(list(batch.shape))
    compiled = ov.compile_model(
        converted, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"} if best_precision(select_device("cpu")) == "bf16" else {}
    )
    values = batch.numpy()
    return lambda: compiled(values)[0]


def _engine(name: str) -> Callable[[str, models.Network, Tensor], Callable[[], Tensor]]:
    def run(model: str, network: models.Network, images: Tensor) -> Callable[[], Tensor]:
        infer = selection.engine(_classifier(network, models.get_entry(model).input), images, name)
        return lambda: infer(images)

    return run


def _int8(model: str, network: models.Network, images: Tensor) -> Callable[[], Tensor]:
    ov = openvino.library()
    part = prepare_module(_classifier(network, models.get_entry(model).input))

    def make(folder: Path) -> None:
        openvino.write_model(quantization.quantize(part, images, [images]), folder / "graph.xml", {})

    folder = cached_folder("engines", folder_key(part.key, "bench int8", ov.__version__), make)
    if folder is None:
        raise UserError("the cache cannot be written: name another folder in CONVATLAS_CACHE")
    infer = openvino.Runner(openvino.read_model(folder / "graph.xml"), best_precision(select_device("cpu")))
    return lambda: infer(images)


_ENGINES: dict[str, Callable[[str, models.Network, Tensor], Callable[[], Any]]] = {
    "baseline": _eager,
    "baseline-tuned": _eager,
    "baseline-compiled": _compiled("torchvision"),
    "timm-compiled": _compiled("timm"),
    "eager": _engine("eager"),
    "compile": _engine("compile"),
    "onnx": _engine("onnx"),
    "openvino-direct": _direct,
    "auto": _engine("auto"),
    "int8": _int8,
}


def classifier_of(model: str) -> Classifier:
    """An untrained one, which is as fast as a trained one."""
    torch.manual_seed(0)
    return _classifier(*_network(model))


def _classifier(network: models.Network, size: tuple[int, int, int]) -> Classifier:
    assert network.architecture is not None
    classes = tuple(map(str, range(int(network.architecture.arguments["num_classes"]))))  # type: ignore[arg-type]
    card = ClassifierMetadata(
        format=FORMAT,
        network=network.architecture,
        classes=classes,
        preprocessing=center_crop_preprocessing(size[0], size[1:], 256 / 224),
        precision="fp32",
        batch=BATCH,
        provenance={},
        metrics={},
    )
    mean, std = (torch.tensor(values)[: size[0], None, None] for values in (MEAN, STD))
    return Classifier(card, network, Normalizer(mean, std), engines=selection.engine)


def _preprocess(side: int) -> Callable[[Any], Tensor]:
    if not is_installed("torchvision"):
        raise UserError("the script that is measured is torchvision's: make peers")
    v2 = import_peer("torchvision.transforms.v2")
    steps = [v2.Resize(side * 256 // 224), v2.CenterCrop(side), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    found: Callable[[Any], Tensor] = v2.Compose([*steps, v2.Normalize(mean=list(MEAN), std=list(STD))])
    return found


def _script(model: str, network: models.Network, size: tuple[int, int, int], files: list[Path]) -> Callable[[], int]:
    preprocess, baseline = _preprocess(size[1]), _baseline(model, network)

    def work() -> int:
        for file in files:
            batch = preprocess(Image.open(file).convert("RGB")).unsqueeze(0)
            probabilities = baseline(batch).squeeze(0).softmax(0)
            probabilities.argmax().item()
        return len(files)

    return work


def _dataloader(model: str, network: models.Network, size: tuple[int, int, int], files: list[Path]) -> Callable[[], int]:
    preprocess, baseline = _preprocess(size[1]), _baseline(model, network)

    class Photos(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Tensor:
            return preprocess(Image.open(files[index]).convert("RGB"))

    loader = torch.utils.data.DataLoader(Photos(), BATCH, num_workers=2, persistent_workers=True)

    def work() -> int:
        for batch in loader:
            baseline(batch).softmax(1).argmax(1).tolist()
        return len(files)

    return work


def _predict(model: str, network: models.Network, size: tuple[int, int, int], files: list[Path]) -> Callable[[], int]:
    classifier = _classifier(network, size)
    return lambda: sum(not isinstance(answer, UserError) for _, answer in classifier.predict_iter(files))


_FILES: dict[str, Callable[[str, models.Network, tuple[int, int, int], list[Path]], Callable[[], int]]] = {
    "baseline": _script,
    "baseline-tuned": _script,
    "dataloader": _dataloader,
    "auto": _predict,
}
