"""Our C++ kernels: compiled for this machine by its own compiler at their first use, and kept in the cache.

They call nothing of torch, so that no torch is needed to build the package, and share its OpenMP threads.
"""

import ctypes
import hashlib
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from convatlas.errors import UserError, printable
from convatlas.runtime.device import cpu_flags
from convatlas.storage.cache import cached_folder, private_folder

SOURCES = [Path(__file__).parent / name for name in ("batch_norm.cpp", "narrow_conv.cpp")]
COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-fno-math-errno")
COMPILE_SECONDS = 120.0  # a compiler that takes longer hangs
LIBRARY = "kernels.so"
KERNEL_SIZE = (5, 5)  # of the convolutions in narrow_conv.cpp


class Kernels:
    """The kernels in a loaded library that `compiler` (name and version) has made. Tensors are on the CPU.

    Those of batch norm take images (n, c, h, w) in channels-last format; parameters and statistics are
    float32, for images in float64 float64.
    """

    SUFFIXES: ClassVar = {torch.float64: "f64", torch.float32: "f32", torch.bfloat16: "bf16"}

    def __init__(self, library: ctypes.CDLL, compiler: str):
        self.compiler = compiler
        pointer, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
        flags = [ctypes.c_int, ctypes.c_int]
        signatures = {
            "statistics": [pointer, integer, integer, number, number, *[pointer] * 4, ctypes.c_int],
            "forward": [*[pointer] * 3, integer, integer, *[pointer] * 4, *flags],
            "backward": [*[pointer] * 5, integer, integer, *[pointer] * 6, *flags],
            "convolve": [*[pointer] * 5, *[integer] * 7, ctypes.c_int],
            "weight_gradient": [*[pointer] * 5, *[integer] * 6, ctypes.c_int],
        }
        self._functions = {}
        for name, arguments in signatures.items():
            for dtype, suffix in self.SUFFIXES.items():
                if dtype == torch.bfloat16 and name in ("convolve", "weight_gradient"):
                    continue
                function = getattr(library, f"{name}_{suffix}")
                function.argtypes, function.restype = arguments, None
                self._functions[name, dtype] = function

    def __deepcopy__(self, memo: Any) -> "Kernels":
        return self  # a copied module has the same library

    def statistics(
        self,
        x: Tensor,
        eps: float,
        momentum: float,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        mean: Tensor,
        inverse_std: Tensor,
    ) -> None:
        """Write the mean of each channel and 1 / sqrt(variance + eps), and move the running statistics."""
        statistics = _pointers(running_mean, running_var, mean, inverse_std)
        self._functions["statistics", x.dtype](
            x.data_ptr(), *_rows_and_channels(x), eps, momentum, *statistics, torch.get_num_threads()
        )

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        y: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse_std: Tensor,
        relu: bool,
    ) -> None:
        """Write y = relu((x - mean) * inverse_std * weight + bias + residual)."""
        parameters = _pointers(weight, bias, mean, inverse_std)
        self._functions["forward", x.dtype](
            *_pointers(x, residual, y), *_rows_and_channels(x), *parameters, relu, torch.get_num_threads()
        )

    def backward(
        self,
        dy: Tensor,
        x: Tensor,
        y: Tensor | None,
        dresidual: Tensor | None,
        dx: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse_std: Tensor,
        dweight: Tensor,
        dbias: Tensor,
        relu: int,
    ) -> None:
        """Write dx, dweight, dbias, and dresidual where it is given. `relu` is a `Relu` of batch_norm.cpp."""
        parameters = _pointers(weight, bias, mean, inverse_std, dweight, dbias)
        self._functions["backward", x.dtype](
            *_pointers(dy, x, y, dresidual, dx),
            *_rows_and_channels(x),
            *parameters,
            relu,
            torch.get_num_threads(),
        )

    def convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, maps: Tensor, y: Tensor, margin: int
    ) -> None:
        """Write the convolution of x, with `margin` zeros around it, with kernels (connections, 5, 5).

        `maps` (connections, 2), int64: the output and the input map of each, in the order of the former. The
        images of x and y, float32 or float64, are the innermost in memory.
        """
        n, channels, height, width = x.shape
        sizes = (len(maps), channels, height, width, y.shape[1], margin, n)
        pointers = _pointers(x, weight, bias, y, maps)
        self._functions["convolve", x.dtype](*pointers, *sizes, torch.get_num_threads())

    def weight_gradient(self, dy: Tensor, x: Tensor, dweight: Tensor, dbias: Tensor, maps: Tensor) -> None:
        """Write the gradients of the weights and the bias of `convolve` without a margin."""
        n, channels, height, width = x.shape
        sizes = (len(maps), channels, height, width, dy.shape[1], n)
        pointers = _pointers(dy, x, dweight, dbias, maps)
        self._functions["weight_gradient", x.dtype](*pointers, *sizes, torch.get_num_threads())


def _pointers(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def _rows_and_channels(x: Tensor) -> tuple[int, int]:
    channels = x.shape[1]
    return x.numel() // channels, channels


_loaded: list[Kernels] = []  # by this process: none, or one


def load_kernels(say: Callable[[str], None] = lambda line: None) -> Kernels:
    """Compile the kernels if the cache does not hold them, and load them. `say` is called before the compiler
    runs.

    Raises UserError with the reason: no compiler, one that fails, or a library that does not load.
    """
    if not _loaded:
        _loaded.append(_compile_and_load(say))
    return _loaded[0]


def _compile_and_load(say: Callable[[str], None]) -> Kernels:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise UserError("no C++ compiler is installed (g++ or clang++)")
    version = _run(compiler, "--version").partition("\n")[0]

    def compile_into(folder: Path) -> None:
        say(f"convatlas: compiling kernels for this CPU, once, in some seconds: {printable(version)}")
        _run(compiler, *FLAGS, *map(str, SOURCES), "-o", str(folder / LIBRARY))

    if private_folder("kernels") is None:
        with tempfile.TemporaryDirectory() as folder:
            compile_into(Path(folder))
            return Kernels(_load(Path(folder) / LIBRARY), version)
    made_from = ([source.read_bytes() for source in SOURCES], FLAGS, version, platform.machine(), cpu_flags())
    key = hashlib.sha256(repr(made_from).encode()).hexdigest()
    folder_of_key = cached_folder("kernels", key, compile_into)
    if folder_of_key is None:
        raise UserError("the cache cannot be written")
    return Kernels(_load(folder_of_key / LIBRARY), version)


def _run(*command: str) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, check=True, text=True, errors="replace", timeout=COMPILE_SECONDS
        ).stdout
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or [
            f"exit {error.returncode}"
        ]
        raise UserError(f"the compiler {printable(command[0])} fails: {printable(lines[0])}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"the compiler {printable(command[0])} fails: {printable(error)}") from None


def _load(path: Path) -> ctypes.CDLL:
    """Load a library whose OpenMP is the one that torch has loaded: a second one would have threads of its
    own, which wait for each other on the same cores."""
    before = _openmp_libraries()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise UserError(f"the compiled kernels cannot be loaded: {printable(error)}") from None
    others = _openmp_libraries() - before
    if before and others:
        raise UserError(f"the compiler has another OpenMP than torch, {printable(min(others))}")
    return library


def _openmp_libraries() -> set[str]:
    """The OpenMP libraries that this process has loaded; none where the system does not list them."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return set()
    return set(re.findall(r"/\S*/lib[gi]?omp\b\S*", maps))
