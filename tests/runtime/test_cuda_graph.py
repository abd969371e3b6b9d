"""A pass that is recorded once and replayed trains as one that PyTorch runs; where it would not, PyTorch runs it.

On a CPU the recording is played by computing again into the same tensors; with a CUDA device at hand it is a CUDA graph.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.runtime.cuda_graph import CudaGraphForwardBackward, EagerForwardBackward, capture_cuda_graph
from convatlas.runtime.runtime import Runtime

Work = Callable[[], list[Tensor]]


class Loss(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images)
        return nn.functional.cross_entropy(logits, targets), logits


class Again:
    """A recording for a CPU."""

    def __init__(self, module: nn.Module, spoilt: float = 1.0):
        self.module, self.spoilt, self.replays = module, spoilt, 0

    def __call__(self, work: Work) -> tuple[list[Tensor], Callable[[], None]]:
        found = work()

        def replay() -> None:
            self.replays += 1
            kept = [p.grad for p in self.module.parameters()]
            self.module.zero_grad()
            for place, value in zip(found, work(), strict=True):
                place.copy_(value * self.spoilt)
            for p, g in zip(self.module.parameters(), kept, strict=True):
                p.grad = g

        return found, replay


def network() -> nn.Module:
    """With batch norm, whose statistics a pass moves, and dropout, which is drawn anew in every pass."""
    torch.manual_seed(0)
    model = models.create_model("resnet20_cifar", width=0.25, image_size=16, num_classes=10, in_chans=1)
    return Loss(nn.Sequential(model, nn.Dropout(0.3))).double().train()


def trained(
    module: nn.Module, function: EagerForwardBackward | CudaGraphForwardBackward, device: str, parts: tuple[int, ...] = (12,)
) -> list[float]:
    """The losses of five steps, the last of a smaller batch."""
    optimizer, losses = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9), list[float]()
    generator = torch.Generator().manual_seed(1)
    for step in range(5):
        sizes = parts if step < 4 else (7,)
        torch.manual_seed(step)
        for part in sizes:
            images = torch.rand(part, 1, 16, 16, generator=generator, dtype=torch.float64).to(device)
            targets = torch.randint(0, 10, (part,), generator=generator).to(device)
            loss, logits = function(images, targets, part / sum(sizes), last=part == sizes[-1])
            assert logits.shape == (part, 10)
            assert not loss.requires_grad
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


def passes(
    module: nn.Module, device: str, said: list[str], record: Again | None = None
) -> tuple[EagerForwardBackward, CudaGraphForwardBackward]:
    runtime = Runtime(torch.device(device), "fp32", threads=1)
    module.to(device)
    eager = EagerForwardBackward(module, runtime.autocast, runtime.ranks)
    return eager, CudaGraphForwardBackward(eager, said.append, record or (capture_cuda_graph if device == "cuda" else Again(module)))


@pytest.mark.parametrize("parts", [(12,), (5, 5, 2)])
def test_what_is_replayed_trains_as_what_is_run(parts: tuple[int, ...]) -> None:
    train_both_ways(parts, "cpu")


def train_both_ways(parts: tuple[int, ...], device: str) -> None:
    said: list[str] = []
    mine = network()
    theirs = copy.deepcopy(mine)
    found = trained(mine, passes(mine, device, said)[1], device, parts)
    expected = trained(theirs, passes(theirs, device, said)[0], device, parts)
    assert said == []
    assert found == pytest.approx(expected, rel=1e-8)
    for (name, ours), value in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, value, rtol=1e-6, atol=1e-8, msg=name)


def test_only_images_of_the_first_shape_are_replayed() -> None:
    module = network()
    record = Again(module)
    trained(module, passes(module, "cpu", [], record)[1], "cpu", (5, 5, 2))
    assert record.replays == 4 * 2


@pytest.mark.parametrize(("spoilt", "by"), [(1.02, "0.02"), (float("nan"), "nan")])
def test_a_recording_that_computes_something_else_is_not_used(spoilt: float, by: str) -> None:
    said: list[str] = []
    mine = network()
    theirs = copy.deepcopy(mine)
    record = Again(mine, spoilt)
    found = trained(mine, passes(mine, "cpu", said, record)[1], "cpu")
    assert found == trained(theirs, passes(theirs, "cpu", [])[0], "cpu")
    assert said == [f"no CUDA graph: it differs from PyTorch's by {by}"]
    assert record.replays == 1
    assert all(torch.equal(a, b) for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True))


def test_what_cannot_be_recorded_is_run() -> None:
    def refused(work: Work) -> tuple[list[Tensor], Callable[[], None]]:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nand a page more")

    said: list[str] = []
    mine = network()
    theirs = copy.deepcopy(mine)
    runtime = Runtime(torch.device("cpu"), "fp32", threads=1)
    eager = EagerForwardBackward(mine, runtime.autocast, runtime.ranks)
    assert trained(mine, CudaGraphForwardBackward(eager, said.append, refused), "cpu") == trained(
        theirs, passes(theirs, "cpu", [])[0], "cpu"
    )
    assert said == ["no CUDA graph: operation not permitted when stream is capturing"]
    assert all(torch.equal(a, b) for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("parts", [(12,), (5, 5, 2)])
def test_a_cuda_graph_trains_as_the_operators_one_by_one(parts: tuple[int, ...], cuda: torch.device) -> None:
    train_both_ways(parts, cuda.type)


@pytest.mark.gpu
def test_on_a_cuda_device_one_rank_replays(cuda: torch.device) -> None:
    assert isinstance(Runtime(cuda, "fp32").forward_backward(network(), print), CudaGraphForwardBackward)


@pytest.mark.gpu
def test_batches_that_travel_ahead_of_their_step_arrive_whole_and_in_order(cuda: torch.device) -> None:
    class Numbers(NamedTuple):
        images: Tensor
        targets: Tensor

    sent = [Numbers(torch.full((4, 3, 512, 512), step, dtype=torch.uint8).pin_memory(), torch.full((4,), step)) for step in range(20)]
    arrived = 0
    for step, batch in Runtime(cuda, "fp32").prefetch(iter(enumerate(sent))):
        assert batch.images.is_cuda
        assert (batch.images == step).all()
        assert (batch.targets == step).all()
        arrived += 1
    assert arrived == 20
