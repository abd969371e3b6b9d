"""The runtime: the only object that knows device, precision and compilation, so that the training loop is the
same on a CPU and on a GPU."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.runtime.core_turns import core_turns
from convatlas.runtime.cuda_graph import CudaGraphForwardBackward, EagerForwardBackward, ForwardBackward
from convatlas.runtime.device import Precision, cpu_matrix_features
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.memory import tune_malloc
from convatlas.runtime.num_threads import default_threads, usable_core_numbers


class Runtime:
    """Device, precision, compilation, threads and ranks of a computation.

    `compile` is a decision already made (not `auto`), so that it can be recorded. `threads` defaults to
    those of `default_threads`. `kernels`: the compiler of those that training steps use, or `torch`, to
    be recorded. Raises UsageError for tf32 on a CPU.
    """

    def __init__(
        self,
        device: torch.device,
        precision: Precision,
        compile: bool = False,
        threads: int | None = None,
        ranks: Ranks = SINGLE_PROCESS,
        kernels: str = "torch",
    ):
        if precision == "tf32" and device.type == "cpu":
            raise UsageError("precision tf32 needs a CUDA device: use fp32 or bf16 on a CPU")
        self.device = device
        self.precision = precision
        self.compile = compile
        self.ranks = ranks
        self.kernels = kernels
        if device.type == "cpu":
            tune_malloc()
            self.threads = threads or default_threads(ranks.local_world_size)
            torch.set_num_threads(self.threads)
        else:
            self.threads = threads or torch.get_num_threads()
            if device.index is not None:
                torch.cuda.set_device(device)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"

    def to_device(self, module: nn.Module) -> nn.Module:
        """Move the module to the device, in channels-last memory format."""
        moved: nn.Module = module.to(  # type: ignore[call-overload]
            self.device, memory_format=torch.channels_last
        )
        return moved

    def prefetch(self, stream: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Numbered batches (named tuples with `images` and `targets`), moved to the device; on CUDA the next
        batch is copied during a step."""
        if self.device.type != "cuda":
            yield from stream
            return
        copy_stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        previous: tuple[int, Any] | None = None
        for step, batch in stream:
            with torch.cuda.stream(copy_stream):
                images, targets = (
                    t.to(self.device, non_blocking=True) for t in (batch.images, batch.targets)
                )
            if previous is not None:
                yield previous
            current_stream = torch.cuda.current_stream(self.device)
            current_stream.wait_stream(copy_stream)
            for tensor in (images, targets):
                # its memory must not be reused by the next copy before this step has read it
                tensor.record_stream(current_stream)
            previous = step, batch._replace(images=images, targets=targets)
        if previous is not None:
            yield previous

    def compiled_forward_backward(self, module: nn.Module, warn: Callable[[str], None]) -> ForwardBackward:
        """The forward and backward of a training step, for a module that maps images and targets to loss and
        logits. It is compiled if `compile` is set, and its gradients are the mean over all ranks. `warn` is
        called when the step cannot run as planned."""
        compiled: nn.Module = torch.compile(module) if self.compile else module  # type: ignore[assignment]
        return self.forward_backward(self.ranks.wrap_ddp(compiled), warn)

    def forward_backward(self, module: nn.Module, warn: Callable[[str], None]) -> ForwardBackward:
        """The module's forward and backward on this rank alone. On CUDA it is a CUDA graph, except with
        several ranks, whose exchange would interrupt it."""
        eager = EagerForwardBackward(module, self.autocast, self.ranks, partial(self.turn, warn))
        if self.device.type == "cuda" and self.ranks.world_size == 1:
            return CudaGraphForwardBackward(eager, warn)
        return eager

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """A context with bf16 autocast where the precision is bf16."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def turn(self, say: Callable[[str], None] = lambda line: None) -> contextlib.AbstractContextManager[None]:
        """This process's turn on its cores, if others of ours share them: see `CoreTurns`. Several ranks take
        none: one would wait for another that waits for its turn."""
        if self.device.type != "cpu" or self.ranks.world_size > 1:
            return contextlib.nullcontext()
        return core_turns(self.threads, usable_core_numbers()).turn(say)

    def seed_step(self, value: int) -> None:
        """Seed everything random inside a step (dropout)."""
        # torch.manual_seed seeds every backend: 0.4 ms of a step that may take five
        torch.default_generator.manual_seed(value)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(value)

    def optimizer_step(
        self, optimizer: torch.optim.Optimizer, clip: Callable[[Iterable[Tensor]], None] | None = None
    ) -> None:
        """Clip the gradients, update the parameters, and set the gradients to None."""
        with self.turn():
            if clip is not None:
                clip(p for group in optimizer.param_groups for p in group["params"])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def describe(self) -> str:
        """Device, threads and precision in one line for people."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        features = ", ".join(cpu_matrix_features()) or "no vector units reported"
        return f"CPU, {self.threads} threads ({features}), {self.precision}"

    def environment(self) -> Mapping[str, str | int | bool]:
        """Everything that the bits of a run depend on besides the run itself."""
        import numpy
        import PIL

        from convatlas import __version__

        cuda = self.device.type == "cuda"
        return {
            "convatlas": __version__,
            "torch": str(torch.__version__),
            "numpy": numpy.__version__,
            "pillow": PIL.__version__,
            "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "instruction_set": torch.backends.cpu.get_cpu_capability(),
            "units": " ".join(cpu_matrix_features()),
            "threads": self.threads,
            "ranks": self.ranks.world_size,
            "compile": self.compile,
            "kernels": self.kernels,
        }
