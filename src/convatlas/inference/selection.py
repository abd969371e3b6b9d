"""`engine`: the engine that the caller names, or the fastest that is installed and agrees with PyTorch."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError, UserError, printable, unknown_name
from convatlas.inference import eager, inductor, onnx, openvino
from convatlas.inference.graph import InferenceModule, InferFn, prepare_module
from convatlas.inference.parity import Parity, check_parity
from convatlas.runtime.device import Precision, best_precision

ENGINES: dict[str, ModuleType] = {"eager": eager, "compile": inductor, "openvino": openvino, "onnx": onnx}
PROBE_IMAGES = 8  # on which an engine is compared with PyTorch
NUM_RUNS = 7  # of which the median time counts
MAX_SECONDS = 0.5  # for them
MAX_SPEEDUP = 10  # above it, the smallest delay in a run changes the ratio


@dataclass(frozen=True)
class Engine:
    """images (any n, c, h, w), of the example's type and size -> logits, float32, on the CPU.

    `why` says why this engine was chosen.
    """

    name: str
    precision: Precision
    why: str
    run: InferFn
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        dtype = str(self.dtype).removeprefix("torch.")
        return f"<Engine {self.name}, {self.precision}, for {dtype} images {shape}: {self.why}>"

    def __call__(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != self.shape or images.dtype != self.dtype or not len(images):
            expected = f"(1 or more, {', '.join(map(str, self.shape))}) of {self.dtype}"
            raise UsageError(
                f"this engine was built for images {expected}, not {tuple(images.shape)} of {images.dtype}: "
                "build another"
            )
        return self.run(images)


def engine(
    model: nn.Module, example: Tensor, name: str = "auto", precision: Precision | None = None
) -> Engine:
    """A callable from images to float32 logits, whose `name` is eager, compile, openvino or onnx.

    `model`: any module; `Classifier.inference_module()` takes uint8 images and normalises them inside.
    `example`: (n, c, h, w), images as they will come; the first are the probe on which the engine is compared
    with PyTorch in fp32. Of a module that returns several values, the entry `logits` or `out` are the logits,
    else the first tensor; `why` says which. `auto` takes OpenVINO where it is installed, ONNX Runtime on
    a CPU without bf16 units, and PyTorch itself where those are missing, disagree or are no faster; it never
    compiles. `precision` defaults to bf16 where the device multiplies it in hardware (ONNX Runtime: always
    fp32).

    Raises UsageError for an unknown engine and for a module without logits, UserError when the engine of that
    name is not installed or does not agree.
    """
    if name not in ("auto", *ENGINES):
        raise unknown_name("engine", name, ("auto", *ENGINES))
    if not isinstance(example, Tensor) or example.dim() != 4 or not len(example):
        given = f"a {type(example).__name__}"
        if isinstance(example, Tensor):
            given = f"a tensor of shape {tuple(example.shape)}"
        raise UsageError(f"the example should be images (n, channels, height, width), not {given}")
    module = prepare_module(model, example)
    selector = _EngineSelector(module, example, precision or best_precision(module.device))
    return selector.fastest() if name == "auto" else selector.named(name)


class _EngineSelector:
    def __init__(self, module: InferenceModule, example: Tensor, precision: Precision):
        self.module = module
        self.example = example
        self.precision = precision
        self.probe = example[:PROBE_IMAGES]

    def named(self, name: str) -> Engine:
        built = self._build(name)
        if isinstance(built, str):
            raise UserError(f"the engine {name} {built}")
        run, parity = built
        return self._engine(
            name, run, "as requested" if name == "eager" else f"as requested; {self._describe(parity)}"
        )

    def fastest(self) -> Engine:
        pytorch = eager.build(self.module, self.example, self.precision)
        reasons = []
        for name in self._candidates():
            built = self._build(name)
            if isinstance(built, str):
                reasons.append(f"{name} {built}")
                continue
            run, parity = built
            speedup = _seconds(pytorch, self.probe) / _seconds(run, self.probe)
            if speedup >= 1:
                why = f"{_describe_speedup(speedup, len(self.probe))}; {self._describe(parity)}"
                return self._engine(name, run, "; ".join([why, *reasons]))
            reasons.append(f"{name} is no faster")
        return self._engine("eager", pytorch, "; ".join(reasons) or "on this device nothing else is tried")

    def _candidates(self) -> list[str]:
        if self.module.device.type != "cpu":
            return []
        return (
            ["openvino"] if self.precision == "bf16" else ["openvino", "onnx"]
        )  # ONNX Runtime computes in fp32

    def _build(self, name: str) -> tuple[InferFn, Parity] | str:
        """The engine and its parity with PyTorch, or the reason why it cannot be used."""
        kind = ENGINES[name]
        precision = self._precision_of(name)
        missing = kind.missing_requirement()
        if missing:
            return f"needs {missing}"
        try:
            run = kind.build(self.module, self.example, precision)
            logits = run(self.probe)
        except UserError:  # these images are not for this network, whichever engine runs it
            raise
        except Exception as error:  # converters raise anything for a module that they do not know
            first_line = printable(str(error).strip().partition("\n")[0])[:200]
            return f"cannot run this network ({type(error).__name__}: {first_line})"
        if name == "eager":
            return run, Parity(0.0, 1.0, True)
        expected = eager.build(self.module, self.example, "fp32")(self.probe)
        parity = check_parity(logits, expected, precision)
        if not parity.enough:
            return f"does not agree with PyTorch: {self._describe(parity)}"
        return run, parity

    def _precision_of(self, name: str) -> Precision:
        return "fp32" if name == "onnx" else self.precision

    def _engine(self, name: str, run: InferFn, why: str) -> Engine:
        shape = tuple(self.example.shape[1:])
        if self.module.output_place:
            why = f"{why}; the logits are {self.module.output_place}"
        return Engine(name, self._precision_of(name), why, run, shape, self.example.dtype)

    def _describe(self, parity: Parity) -> str:
        return (
            f"the same class for {100 * parity.same_class:.0f} % of {len(self.probe)} images, "
            f"largest difference {100 * parity.difference:.1g} % of the largest logit"
        )


def _describe_speedup(speedup: float, images: int) -> str:
    """In words where a ratio of a few runs would say more than they tell."""
    if speedup < 1.1:
        return "as fast as PyTorch"
    if speedup > MAX_SPEEDUP:
        return f"more than {MAX_SPEEDUP} times as fast as PyTorch on {images} images"
    return f"{speedup:.1f} times as fast as PyTorch on {images} images"


def _seconds(run: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """The median of several runs, after one that warms up."""
    run(images)
    seconds: list[float] = []
    while len(seconds) < NUM_RUNS and sum(seconds) < MAX_SECONDS:
        start = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
