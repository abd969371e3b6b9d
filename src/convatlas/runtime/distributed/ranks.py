"""The processes that train together: the rank of this one, and the collectives by which they communicate. A
process that trains by itself is the simple case.

Collectives of numbers and objects use gloo, also when the ranks compute on CUDA, so that none waits for the
device. Gradients and the statistics of batch norm are exchanged on the device of their tensors.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from convatlas.runtime.distributed.watchdog import Watchdog

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process is `rank` of `world_size`, and `local_rank` of the `local_world_size` on its machine;
    torchrun has restarted them `restart_count` times.

    The methods are those of a process that trains by itself; `DistributedRanks` has them for several.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    restart_count: int = 0

    def all_reduce_max(self, *numbers: int) -> tuple[int, ...]:
        """The maximum of each number over the ranks; for flags, whether any rank has set it."""
        return numbers

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, in float64, on the CPU."""
        return tensor.detach().to("cpu", torch.float64)

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, in the order of the ranks."""
        return [value]

    def run_on_main(self, work: Callable[[], T]) -> T:
        """The result of `work`, which rank 0 alone runs; the other ranks wait for it."""
        return work()

    def all_gather_stacked(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, of one shape, stacked as (world_size, ...) on the tensor's device."""
        return tensor[None]

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        """The module, wrapped so that its backward computes the mean of all ranks' gradients."""
        return module

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """A context in which a forward only accumulates this rank's gradients; the next one outside exchanges
        the sum."""
        return nullcontext()

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Copy rank 0's buffers of the module, such as batch norm's running statistics, to all ranks."""

    def heartbeat(self, collective: bool = False) -> None:
        """Give a sign of life. `collective`: this rank has reached something that all ranks do, so that a
        rank which has not reached it is behind."""


SINGLE_PROCESS = Ranks()


@dataclass(frozen=True)
class DistributedRanks(Ranks):
    """One of several ranks. All ranks must call the methods in the same order."""

    _: KW_ONLY
    watchdog: Watchdog

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # a copied module belongs to the same ranks

    def all_reduce_max(self, *numbers: int) -> tuple[int, ...]:
        maxima = torch.tensor(numbers, dtype=torch.int64)
        self.heartbeat(collective=True)
        dist.all_reduce(maxima, dist.ReduceOp.MAX)
        return tuple(maxima.tolist())

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        total = super().all_reduce_sum(tensor).clone()
        self.heartbeat(collective=True)
        dist.all_reduce(total)
        return total

    def all_gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world_size
        self.heartbeat(collective=True)
        dist.all_gather_object(values, value)
        return values

    def run_on_main(self, work: Callable[[], T]) -> T:
        results: list[Any] = [work() if self.rank == 0 else None]
        self.heartbeat(collective=True)
        dist.broadcast_object_list(results, src=0)
        result: T = results[0]
        return result

    def all_gather_stacked(self, tensor: Tensor) -> Tensor:
        stacked = tensor.new_empty((self.world_size, *tensor.shape))
        self.heartbeat(collective=True)
        dist.all_gather(list(stacked), tensor.contiguous())
        return stacked

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 has renamed an option
            wrapped = DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)
        if self.world_size > 2 and next(module.parameters()).device.type == "cpu":
            wrapped.register_comm_hook(self, _mean_in_order)
        return wrapped

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        assert isinstance(module, DistributedDataParallel)
        return module.no_sync()

    def broadcast_buffers(self, module: nn.Module) -> None:
        self.heartbeat(collective=True)
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)

    def heartbeat(self, collective: bool = False) -> None:
        self.watchdog.beat(collective)


def _mean_in_order(ranks: DistributedRanks, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """The mean of a bucket of gradients over the ranks. Each element is summed in the order of the ranks,
    wherever it lies in the bucket.

    A ring all-reduce sums an element in an order that depends on its position, and torch lays out the buckets
    again after the first step of a process: with three ranks or more, a restarted run would end with other
    bits. (The sum of two numbers does not depend on their order.)
    """
    gradients = bucket.buffer()
    chunk_size = -(-gradients.numel() // ranks.world_size)
    padding = chunk_size * ranks.world_size - gradients.numel()
    sent = nn.functional.pad(gradients, (0, padding)) / ranks.world_size
    received = torch.empty_like(sent)  # this rank's chunk of every rank's gradients
    dist.all_to_all_single(received, sent)
    total, *others = received.view(ranks.world_size, chunk_size)
    for chunk in others:
        total += chunk
    mean = sent  # overwritten: no third buffer
    dist.all_gather(list(mean.view(ranks.world_size, chunk_size)), total)
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(mean[: gradients.numel()])
    return future
