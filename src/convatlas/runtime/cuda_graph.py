"""Forward and backward of a batch: run eagerly by PyTorch, or captured once as a CUDA graph and replayed, so
that the kernels of a small batch do not wait for Python.

Unlike `torch.cuda.make_graphed_callables`, the graph holds the whole of forward, loss and backward; its first
results are compared with the eager ones, and the eager pass is used when they differ.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from convatlas.runtime.distributed.ranks import Ranks

# The largest relative difference between the loss and gradients of a replayed pass and PyTorch's: some CUDA
# kernels add up in any order.
TOLERANCE = 0.01


class ForwardBackward(Protocol):
    def __call__(
        self, images: Tensor, targets: Tensor, share: float = 1.0, last: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The loss of a micro-batch and its logits, both without gradients.

        The gradients of `share` times the loss are added to those of the parameters. With several ranks, the
        gradients of all micro-batches of a batch are exchanged with the `last` one.
        """


class EagerForwardBackward:
    """The eager pass, operator by operator. `module` maps images and targets to loss and logits; `turn` is
    the context of what computes."""

    def __init__(
        self,
        module: nn.Module,
        autocast: Callable[[], AbstractContextManager[object]],
        ranks: Ranks,
        turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    ):
        self.module = module
        self._autocast = autocast
        self._ranks = ranks
        self._turn = turn

    def __call__(
        self, images: Tensor, targets: Tensor, share: float = 1.0, last: bool = True
    ) -> tuple[Tensor, Tensor]:
        with self._turn():
            with self._autocast(), nullcontext() if last else self._ranks.no_sync(self.module):
                loss, logits = self.module(images, targets)
            self._ranks.heartbeat(collective=True)
            torch.autograd.backward(loss * share)
            return loss.detach(), logits.detach()


def capture_cuda_graph(work: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
    """Capture `work` as a CUDA graph. Returns the tensors that it fills, and a function that refills them."""
    graph = torch.cuda.CUDAGraph()
    # "thread_local" lets a loader's thread pin memory during the capture
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = work()
    return outputs, graph.replay


class CudaGraphForwardBackward:
    """An eager pass in training mode, captured with the first batch and replayed for all others of its shape.

    The first batch is computed in both ways. When they differ, or the capture fails, the eager pass is used
    from then on, and `warn` is called with the reason.
    """

    def __init__(
        self,
        eager: EagerForwardBackward,
        warn: Callable[[str], None],
        capture: Callable[
            [Callable[[], list[Tensor]]], tuple[list[Tensor], Callable[[], None]]
        ] = capture_cuda_graph,
    ):
        self._eager = eager
        self._warn = warn
        self._capture = capture
        self._trained: list[nn.Parameter] = []
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []  # loss, logits, gradients: filled by a replay
        self._replay: Callable[[], None] | None = None
        self._tried = False

    def __call__(
        self, images: Tensor, targets: Tensor, share: float = 1.0, last: bool = True
    ) -> tuple[Tensor, Tensor]:
        if not self._tried:
            self._tried = True
            return self._first_pass(images, targets, share)
        captured_shapes = [(t.shape, t.dtype) for t in self._inputs]
        if self._replay is None or captured_shapes != [(t.shape, t.dtype) for t in (images, targets)]:
            return self._eager(images, targets, share, last)
        for graph_input, value in zip(self._inputs, (images, targets), strict=True):
            graph_input.copy_(value)
        self._replay()
        return self._accumulate(self._outputs, share)

    def _first_pass(self, images: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
        buffers = list(self._eager.module.buffers())
        devices = [images.device] if images.is_cuda else []
        buffers_before = [b.clone() for b in buffers]
        with torch.random.fork_rng(devices), _side_stream(images.device):
            expected = self._compute(images, targets)
        buffers_after = [b.clone() for b in buffers]
        _restore(buffers, buffers_before)
        self._inputs = [images.clone(), targets.clone()]
        try:
            with torch.random.fork_rng(devices):
                self._outputs, self._replay = self._capture(lambda: self._compute(*self._inputs))
            _restore(buffers, buffers_before)
            self._replay()
            difference = _max_relative_difference(self._outputs, expected)
            failure = f"it differs from PyTorch's by {difference:.2g}" if not difference <= TOLERANCE else ""
        except RuntimeError as error:
            failure = str(error).strip().partition("\n")[0]
        if failure:
            self._warn(f"no CUDA graph: {failure}")
            self._outputs, self._replay, self._inputs = [], None, []
            _restore(buffers, buffers_after)
        return self._accumulate(expected if failure else self._outputs, share)

    def _compute(self, images: Tensor, targets: Tensor) -> list[Tensor]:
        """Loss, logits, and the gradients of all parameters that have one. Those parameters become
        `_trained`, and their `grad` is None afterwards."""
        loss, logits = self._eager(images, targets)
        self._trained = [p for p in self._eager.module.parameters() if p.grad is not None]
        gradients = [p.grad for p in self._trained if p.grad is not None]
        for p in self._trained:
            p.grad = None
        return [loss, logits, *gradients]

    def _accumulate(self, outputs: Sequence[Tensor], share: float) -> tuple[Tensor, Tensor]:
        """Add `share` times the gradients to those of the parameters; return loss and logits."""
        loss, logits, *gradients = outputs
        for p, g in zip(self._trained, gradients, strict=True):
            if share != 1:  # the replay of the next micro-batch fills `g` again
                p.grad = share * g if p.grad is None else p.grad.add_(g, alpha=share)
            else:
                p.grad = g
        return loss.clone(), logits.clone()


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Run on a side stream, for which the current stream waits at the end: whatever is captured afterwards
    must not have been tied to the current stream before."""
    if device.type != "cuda":
        yield
        return
    current_stream = torch.cuda.current_stream(device)
    side_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side_stream.wait_stream(current_stream)
    with torch.cuda.stream(side_stream):
        yield
    current_stream.wait_stream(side_stream)


def _restore(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for buffer, value in zip(buffers, values, strict=True):
            buffer.copy_(value)


def _max_relative_difference(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest relative difference (of Euclidean norms) of loss, logits, and all gradients together."""

    def relative_difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
        difference = torch.stack(
            [(x.float() - y.float()).square().sum() for x, y in zip(a, b, strict=True)]
        ).sum()
        norm = torch.stack([y.float().square().sum() for y in b]).sum()
        return float((difference / norm.clamp(min=1e-30)).sqrt())

    return max(
        relative_difference(outputs[:1], expected[:1]),
        relative_difference(outputs[1:2], expected[1:2]),
        relative_difference(outputs[2:], expected[2:]),
    )
