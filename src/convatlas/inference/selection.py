"""`engine`: a network made ready to answer, by what the caller names or by the fastest that is here and agrees."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from convatlas.classifier import Classifier
from convatlas.errors import UsageError, UserError, printable, unknown_name
from convatlas.inference import eager, onnx, openvino
from convatlas.inference import inductor as inductor
from convatlas.inference.graph import InferenceModule, InferFn, prepare_module
from convatlas.inference.parity import Parity, check_parity
from convatlas.runtime.device import Precision, best_precision

ENGINES: dict[str, ModuleType] = {"eager": eager, "compile": inductor, "openvino": openvino, "onnx": onnx}
PROBE_IMAGES = 8  # images on which an engine is held against PyTorch


@dataclass(frozen=True)
class Engine:
    """images (any n, c, h, w), of the example's type and size -> logits, float32, on the CPU. `why` says how it came to be this one."""

    name: str
    precision: Precision
    why: str
    run: InferFn
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __call__(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != self.shape or images.dtype != self.dtype or not len(images):
            expected = f"(1 or more, {', '.join(map(str, self.shape))}) of {self.dtype}"
            raise UsageError(f"this engine was built for images {expected}, not {tuple(images.shape)} of {images.dtype}: build another")
        return self.run(images)


def engine(model: nn.Module | Classifier, example: Tensor, name: str = "auto", precision: Precision | None = None) -> Engine:
    """A callable from images to float32 logits, whose `name` says what computes them: eager, compile, openvino or onnx.

    `example`: images as they will come, any number; the first are the probe on which the engine is held against PyTorch in fp32. A
    Classifier takes them as uint8, and standardises them inside. `auto` takes OpenVINO where it is installed, ONNX Runtime on a CPU
    without bf16 units, and PyTorch itself where those are missing, disagree or are no faster; it never compiles. `precision` defaults
    to bf16 where the device multiplies it in hardware (ONNX Runtime: always fp32).

    Raises UsageError for an unknown engine, UserError when the one named is not installed or does not agree.
    """
    if name not in ("auto", *ENGINES):
        raise unknown_name("engine", name, ("auto", *ENGINES))
    if example.dim() != 4 or not len(example):
        raise UsageError(f"the example should be images (n, channels, height, width), not a tensor of shape {tuple(example.shape)}")
    part = prepare_module(model)
    make = _EngineSelector(part, example, precision or best_precision(part.device))
    return make.fastest() if name == "auto" else make.named(name)


class _EngineSelector:
    def __init__(self, part: InferenceModule, example: Tensor, precision: Precision):
        self.part, self.example, self.precision, self.probe = part, example, precision, example[:PROBE_IMAGES]

    def named(self, name: str) -> Engine:
        found = self._build(name)
        if isinstance(found, str):
            raise UserError(f"the engine {name} {found}")
        run, agreed = found
        return self._engine(name, run, "as asked" if name == "eager" else f"as asked; {_words(agreed, len(self.probe))}")

    def fastest(self) -> Engine:
        plain = eager.build(self.part, self.example, self.precision)
        reasons = []
        for name in self._candidates():
            found = self._build(name)
            if isinstance(found, str):
                reasons.append(f"{name} {found}")
                continue
            run, agreed = found
            gain = _seconds(plain, self.probe) / _seconds(run, self.probe)
            if gain >= 1:
                why = f"{gain:.1f} times as fast as PyTorch on {len(self.probe)} images; {_words(agreed, len(self.probe))}"
                return self._engine(name, run, "; ".join([why, *reasons]))
            reasons.append(f"{name} is {1 / gain:.1f} times slower")
        return self._engine("eager", plain, "; ".join(reasons) or "on this device nothing else is tried")

    def _candidates(self) -> list[str]:
        if self.part.device.type != "cpu":
            return []
        return ["openvino"] if self.precision == "bf16" else ["openvino", "onnx"]  # ONNX Runtime computes in fp32

    def _build(self, name: str) -> tuple[InferFn, Parity] | str:
        """The engine and how well it agrees, or what is against it."""
        kind, precision = ENGINES[name], self._precision_of(name)
        missing = kind.missing_requirement()
        if missing:
            return f"needs {missing}"
        try:
            run = kind.build(self.part, self.example, precision)
            answers = run(self.probe)
        except UserError:  # these images are not for this network, whatever runs it
            raise
        except Exception as error:  # converters raise whatever they like on a module that they do not know
            return f"cannot run this network ({type(error).__name__}: {printable(str(error).strip().partition(chr(10))[0])[:200]})"
        if name == "eager":
            return run, Parity(0.0, 1.0, True)
        agreed = check_parity(answers, self._expected, precision)
        if not agreed.enough:
            return f"does not agree with PyTorch: {_words(agreed, len(self.probe))}"
        return run, agreed

    @property
    def _expected(self) -> Tensor:
        return eager.build(self.part, self.example, "fp32")(self.probe)

    def _precision_of(self, name: str) -> Precision:
        return "fp32" if name == "onnx" else self.precision

    def _engine(self, name: str, run: InferFn, why: str) -> Engine:
        return Engine(name, self._precision_of(name), why, run, tuple(self.example.shape[1:]), self.example.dtype)


def _words(agreed: Parity, n: int) -> str:
    return (
        f"the same class in {100 * agreed.same_class:.0f} % of {n}, largest difference {100 * agreed.difference:.1g} % of the largest logit"
    )


def _seconds(run: Callable[[Tensor], Tensor], images: Tensor) -> float:
    run(images)
    began = time.perf_counter()
    run(images)
    return time.perf_counter() - began
