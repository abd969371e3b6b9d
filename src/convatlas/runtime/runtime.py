"""Device, precision and compilation, known to this object alone: the training loop reads the same on a CPU and on a GPU."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.runtime.cuda_graph import CudaGraphForwardBackward, EagerForwardBackward, ForwardBackward
from convatlas.runtime.device import Precision, cpu_matrix_features, usable_cores
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.memory import tune_malloc


class Runtime:
    """Where and how the arithmetic runs, and who takes part. `compile` is a decision already taken, so that it can be recorded; ranks on
    one machine share its cores."""

    def __init__(
        self, device: torch.device, precision: Precision, compile: bool = False, threads: int | None = None, ranks: Ranks = SINGLE_PROCESS
    ):
        if precision == "tf32" and device.type == "cpu":
            raise UsageError("precision tf32 needs a CUDA device: use fp32 or bf16 on a CPU")
        self.device, self.precision, self.compile, self.ranks = device, precision, compile, ranks
        if device.type == "cpu":
            tune_malloc()
            self.threads = threads or max(1, usable_cores() // ranks.local_world_size)
            torch.set_num_threads(self.threads)
        else:
            self.threads = threads or torch.get_num_threads()
            if device.index is not None:
                torch.cuda.set_device(device)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"

    def to_device(self, module: nn.Module) -> nn.Module:
        """The module on the device, its images' layout channels-last."""
        placed: nn.Module = module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return placed

    def prefetch(self, stream: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Numbered batches (named tuples with `images` and `targets`) on the device; on CUDA the next one travels during a step."""
        if self.device.type != "cuda":
            yield from stream
            return
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        before: tuple[int, Any] | None = None
        for step, batch in stream:
            with torch.cuda.stream(side):
                images, targets = (t.to(self.device, non_blocking=True) for t in (batch.images, batch.targets))
            if before is not None:
                yield before
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(side)
            for tensor in (images, targets):
                tensor.record_stream(here)  # its memory may not serve the next copy before this step has read it
            before = step, batch._replace(images=images, targets=targets)
        if before is not None:
            yield before

    def compiled_forward_backward(self, module: nn.Module, say: Callable[[str], None]) -> ForwardBackward:
        """The module, from images and targets to loss and logits, as a step calls it: compiled where that was decided, its gradients those
        of all ranks. `say` is told what is done otherwise than decided."""
        return self.forward_backward(self.ranks.wrap_ddp(torch.compile(module) if self.compile else module), say)  # type: ignore[arg-type]

    def forward_backward(self, module: nn.Module, say: Callable[[str], None]) -> ForwardBackward:
        """The module's passes by this rank alone; on CUDA, where no exchange with others interrupts them, as a graph."""
        eager = EagerForwardBackward(module, self.autocast, self.ranks)
        return CudaGraphForwardBackward(eager, say) if self.device.type == "cuda" and self.ranks.world_size == 1 else eager

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def seed_step(self, value: int) -> None:
        """Everything random inside a step (dropout) follows from this."""
        torch.default_generator.manual_seed(value)  # torch.manual_seed asks every backend there is: 0.4 ms of a step that may take five
        if self.device.type == "cuda":
            torch.cuda.manual_seed(value)

    def optimizer_step(self, optimizer: torch.optim.Optimizer, clip: Callable[[Iterable[Tensor]], None] | None = None) -> None:
        """Clip the gradients, step, forget them."""
        if clip is not None:
            clip(p for group in optimizer.param_groups for p in group["params"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def describe(self) -> str:
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        units = ", ".join(cpu_matrix_features()) or "no vector units reported"
        return f"CPU, {self.threads} threads ({units}), {self.precision}"

    def environment(self) -> Mapping[str, str | int | bool]:
        """What the bits of a run depend on beside the run itself."""
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
        }
