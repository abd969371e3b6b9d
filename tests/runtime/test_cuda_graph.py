"""A pass that is captured once and replayed trains as the eager pass does; where it would not, the eager pass
is used.

On a CPU the replay computes again into the captured tensors; with a CUDA device it is a CUDA graph.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.runtime.cuda_graph import (
    CudaGraphForwardBackward,
    EagerForwardBackward,
    ForwardBackward,
    capture_cuda_graph,
)
from convatlas.runtime.runtime import Runtime

Work = Callable[[], list[Tensor]]
MICRO_BATCHES = [(12,), (5, 5, 2)]


class LossModule(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images)
        return nn.functional.cross_entropy(logits, targets), logits


class CpuCapture:
    """A capture for a CPU. `scale` multiplies what is replayed: with another than 1 the replay is wrong."""

    def __init__(self, module: nn.Module, scale: float = 1.0):
        self.module = module
        self.scale = scale
        self.replays = 0

    def __call__(self, work: Work) -> tuple[list[Tensor], Callable[[], None]]:
        outputs = work()

        def replay() -> None:
            self.replays += 1
            gradients = [p.grad for p in self.module.parameters()]
            self.module.zero_grad()
            for output, value in zip(outputs, work(), strict=True):
                output.copy_(value * self.scale)
            for p, g in zip(self.module.parameters(), gradients, strict=True):
                p.grad = g

        return outputs, replay


def make_module() -> nn.Module:
    """A network with batch norm, whose statistics a pass changes, and dropout, which is drawn in every
    pass."""
    torch.manual_seed(0)
    model = models.create_model("resnet20_cifar", width=0.25, image_size=16, num_classes=10, in_chans=1)
    return LossModule(nn.Sequential(model, nn.Dropout(0.3))).double().train()


def train(
    module: nn.Module, forward_backward: ForwardBackward, device: str, micro_batches: tuple[int, ...] = (12,)
) -> list[float]:
    """The losses of five steps, the last of a smaller batch."""
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    losses: list[float] = []
    generator = torch.Generator().manual_seed(1)
    for step in range(5):
        sizes = micro_batches if step < 4 else (7,)
        torch.manual_seed(step)
        for size in sizes:
            images = torch.rand(size, 1, 16, 16, generator=generator, dtype=torch.float64).to(device)
            targets = torch.randint(0, 10, (size,), generator=generator).to(device)
            loss, logits = forward_backward(images, targets, size / sum(sizes), last=size == sizes[-1])
            assert logits.shape == (size, 10)
            assert not loss.requires_grad
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


def eager_pass(module: nn.Module, device: str) -> EagerForwardBackward:
    runtime = Runtime(torch.device(device), "fp32", threads=1)
    module.to(device)
    return EagerForwardBackward(module, runtime.autocast, runtime.ranks)


def graph_pass(
    module: nn.Module, device: str, warnings: list[str], capture: CpuCapture | None = None
) -> CudaGraphForwardBackward:
    default_capture = capture_cuda_graph if device == "cuda" else CpuCapture(module)
    return CudaGraphForwardBackward(eager_pass(module, device), warnings.append, capture or default_capture)


def assert_graph_trains_as_eager(micro_batches: tuple[int, ...], device: str) -> None:
    warnings: list[str] = []
    module = make_module()
    eager_module = copy.deepcopy(module)
    losses = train(module, graph_pass(module, device, warnings), device, micro_batches)
    expected = train(eager_module, eager_pass(eager_module, device), device, micro_batches)
    assert warnings == []
    assert losses == pytest.approx(expected, rel=1e-8)
    expected_state = eager_module.state_dict()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, expected_state[name], rtol=1e-6, atol=1e-8, msg=name)


def assert_same_state(module: nn.Module, other: nn.Module) -> None:
    other_state = other.state_dict()
    assert all(torch.equal(value, other_state[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("micro_batches", MICRO_BATCHES)
def test_a_replayed_pass_trains_as_the_eager_pass(micro_batches: tuple[int, ...]) -> None:
    assert_graph_trains_as_eager(micro_batches, "cpu")


def test_only_images_of_the_first_shape_are_replayed() -> None:
    module = make_module()
    capture = CpuCapture(module)
    train(module, graph_pass(module, "cpu", [], capture), "cpu", (5, 5, 2))
    assert capture.replays == 4 * 2


@pytest.mark.parametrize(("scale", "difference"), [(1.02, "0.02"), (float("nan"), "nan")])
def test_a_replay_that_computes_something_else_is_not_used(scale: float, difference: str) -> None:
    warnings: list[str] = []
    module = make_module()
    eager_module = copy.deepcopy(module)
    capture = CpuCapture(module, scale)
    losses = train(module, graph_pass(module, "cpu", warnings, capture), "cpu")
    assert losses == train(eager_module, eager_pass(eager_module, "cpu"), "cpu")
    assert warnings == [f"no CUDA graph: it differs from PyTorch's by {difference}"]
    assert capture.replays == 1
    assert_same_state(module, eager_module)


def test_a_pass_that_cannot_be_captured_runs_eagerly() -> None:
    def failing_capture(work: Work) -> tuple[list[Tensor], Callable[[], None]]:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nand a page more")

    warnings: list[str] = []
    module = make_module()
    eager_module = copy.deepcopy(module)
    graph = CudaGraphForwardBackward(eager_pass(module, "cpu"), warnings.append, failing_capture)
    losses = train(module, graph, "cpu")
    assert losses == train(eager_module, eager_pass(eager_module, "cpu"), "cpu")
    assert warnings == ["no CUDA graph: operation not permitted when stream is capturing"]
    assert_same_state(module, eager_module)


@pytest.mark.gpu
@pytest.mark.parametrize("micro_batches", MICRO_BATCHES)
def test_a_cuda_graph_trains_as_the_eager_pass(micro_batches: tuple[int, ...], cuda: torch.device) -> None:
    assert_graph_trains_as_eager(micro_batches, cuda.type)


@pytest.mark.gpu
def test_one_rank_on_a_cuda_device_uses_a_cuda_graph(cuda: torch.device) -> None:
    forward_backward = Runtime(cuda, "fp32").forward_backward(make_module(), print)
    assert isinstance(forward_backward, CudaGraphForwardBackward)


@pytest.mark.gpu
def test_prefetched_batches_arrive_complete_and_in_order(cuda: torch.device) -> None:
    class NumberedBatch(NamedTuple):
        images: Tensor
        targets: Tensor

    batches = [
        NumberedBatch(
            torch.full((4, 3, 512, 512), step, dtype=torch.uint8).pin_memory(), torch.full((4,), step)
        )
        for step in range(20)
    ]
    num_batches = 0
    for step, batch in Runtime(cuda, "fp32").prefetch(iter(enumerate(batches))):
        assert batch.images.is_cuda
        assert (batch.images == step).all()
        assert (batch.targets == step).all()
        num_batches += 1
    assert num_batches == 20
