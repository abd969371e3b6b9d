"""A pass: forward and backward of some images. As PyTorch runs it, or recorded once as a CUDA graph and replayed, so that no kernel of a
small batch waits for Python."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from convatlas.runtime.distributed.ranks import Ranks

TOLERANCE = 0.01  # how far a replayed pass may be from PyTorch's, of loss and gradients: some CUDA kernels add up in any order


class ForwardBackward(Protocol):
    def __call__(self, images: Tensor, targets: Tensor, share: float = 1.0, last: bool = True) -> tuple[Tensor, Tensor]:
        """The loss of these images and their logits, without gradients. Those of `share` times the loss are added to the parameters';
        with several ranks, those of all parts of a batch are exchanged with the `last`."""


class EagerForwardBackward:
    """A module from images and targets to loss and logits, operator by operator."""

    def __init__(self, module: nn.Module, autocast: Callable[[], AbstractContextManager[object]], ranks: Ranks):
        self.module, self._autocast, self._ranks = module, autocast, ranks

    def __call__(self, images: Tensor, targets: Tensor, share: float = 1.0, last: bool = True) -> tuple[Tensor, Tensor]:
        with self._autocast(), nullcontext() if last else self._ranks.no_sync(self.module):
            loss, logits = self.module(images, targets)
        self._ranks.heartbeat(collective=True)
        torch.autograd.backward(loss * share)
        return loss.detach(), logits.detach()


def capture_cuda_graph(work: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
    """The tensors that `work` fills, and what fills them again."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # a thread that pins memory for the loader may go on
        found = work()
    return found, graph.replay


class CudaGraphForwardBackward:
    """An eager pass in training, recorded with the first images and replayed for all others of their shape.

    The first is computed in both ways. Where they don't agree, or it cannot be recorded, the eager pass serves from then on, and `say`
    is told why.
    """

    def __init__(
        self,
        eager: EagerForwardBackward,
        say: Callable[[str], None],
        record: Callable[[Callable[[], list[Tensor]]], tuple[list[Tensor], Callable[[], None]]] = capture_cuda_graph,
    ):
        self._eager, self._say, self._record = eager, say, record
        self._trained: list[nn.Parameter] = []
        self._inputs: list[Tensor] = []
        self._found: list[Tensor] = []  # loss, logits, gradients: what a replay fills
        self._replay: Callable[[], None] | None = None
        self._tried = False

    def __call__(self, images: Tensor, targets: Tensor, share: float = 1.0, last: bool = True) -> tuple[Tensor, Tensor]:
        if not self._tried:
            self._tried = True
            return self._first(images, targets, share)
        fits = [(t.shape, t.dtype) for t in self._inputs] == [(t.shape, t.dtype) for t in (images, targets)]
        if self._replay is None or not fits:
            return self._eager(images, targets, share, last)
        for place, given in zip(self._inputs, (images, targets), strict=True):
            place.copy_(given)
        self._replay()
        return self._give(self._found, share)

    def _first(self, images: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
        buffers = list(self._eager.module.buffers())
        devices = [images.device] if images.is_cuda else []
        before = [b.clone() for b in buffers]
        with torch.random.fork_rng(devices), _aside(images.device):
            expected = self._computed(images, targets)
        after = [b.clone() for b in buffers]
        _put(buffers, before)
        self._inputs = [images.clone(), targets.clone()]
        try:
            with torch.random.fork_rng(devices):
                self._found, self._replay = self._record(lambda: self._computed(*self._inputs))
            _put(buffers, before)
            self._replay()
            apart = _apart(self._found, expected)
            refusal = f"it differs from PyTorch's by {apart:.2g}" if not apart <= TOLERANCE else ""
        except RuntimeError as error:
            refusal = str(error).strip().partition("\n")[0]
        if refusal:
            self._say(f"no CUDA graph: {refusal}")
            self._found, self._replay, self._inputs = [], None, []
            _put(buffers, after)
        return self._give(expected if refusal else self._found, share)

    def _computed(self, images: Tensor, targets: Tensor) -> list[Tensor]:
        """Loss, logits, and the gradients of all that has one, which is then `_trained`; the parameters are left without."""
        loss, logits = self._eager(images, targets)
        self._trained = [p for p in self._eager.module.parameters() if p.grad is not None]
        gradients = [p.grad for p in self._trained if p.grad is not None]
        for p in self._trained:
            p.grad = None
        return [loss, logits, *gradients]

    def _give(self, found: Sequence[Tensor], share: float) -> tuple[Tensor, Tensor]:
        loss, logits, *gradients = found
        for p, g in zip(self._trained, gradients, strict=True):
            if share != 1:  # the next part's replay fills `g` again
                p.grad = share * g if p.grad is None else p.grad.add_(g, alpha=share)
            else:
                p.grad = g
        return loss.clone(), logits.clone()


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Beside the current stream, which waits in the end: what is to be recorded must not have been tied to that stream before."""
    if device.type != "cuda":
        yield
        return
    here, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(here)
    with torch.cuda.stream(side):
        yield
    here.wait_stream(side)


def _put(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for buffer, value in zip(buffers, values, strict=True):
            buffer.copy_(value)


def _apart(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference, in parts of the length, of the loss, of the logits, and of all gradients together."""

    def of(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
        difference = torch.stack([(x.float() - y.float()).square().sum() for x, y in zip(a, b, strict=True)]).sum()
        length = torch.stack([y.float().square().sum() for y in b]).sum()
        return float((difference / length.clamp(min=1e-30)).sqrt())

    return max(of(found[:1], expected[:1]), of(found[1:2], expected[1:2]), of(found[2:], expected[2:]))
