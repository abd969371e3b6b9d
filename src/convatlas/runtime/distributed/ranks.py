"""The processes that train together: who this one is, and what they tell each other. One that trains by itself is the plain case.

What they tell each other travels over gloo, also where they compute on CUDA, so that no message waits for the device; gradients and
batch norm's statistics go where the tensors are.
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
    """This process is `rank` of `count`, and `local` of the `beside` that are on its machine; torchrun has started them anew `restarts`
    times. Its methods are the no-ops of a process that trains by itself; `Together` has the same for several."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    restart_count: int = 0

    def all_reduce_max(self, *numbers: int) -> tuple[int, ...]:
        """Of each number the largest that a rank has: of flags, whether anybody has it set."""
        return numbers

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, in float64, on the CPU."""
        return tensor.detach().to("cpu", torch.float64)

    def all_gather(self, value: T) -> list[T]:
        """What each rank has, in the ranks' order."""
        return [value]

    def run_on_main(self, work: Callable[[], T]) -> T:
        """What rank 0 alone does; the others wait for what comes of it."""
        return work()

    def all_gather_stacked(self, tensor: Tensor) -> Tensor:
        """(ranks, ...): each rank's tensor, of one shape, where the tensor is."""
        return tensor[None]

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        """The module, whose backward leaves in its parameters the mean of all ranks' gradients."""
        return module

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """A forward in here adds up this rank's own gradients, until one outside exchanges the sum."""
        return nullcontext()

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Give the module's buffers, such as batch norm's running statistics, the values that rank 0 has."""

    def heartbeat(self, collective: bool = False) -> None:
        """A sign of life. `arrived`: at something that all ranks do, so that whoever has not arrived is behind."""


SINGLE_PROCESS = Ranks()


@dataclass(frozen=True)
class DistributedRanks(Ranks):
    """One of several. The methods are for all ranks to call, in the same order."""

    _: KW_ONLY
    watchdog: Watchdog

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # a copy of a module talks to the same ranks

    def all_reduce_max(self, *numbers: int) -> tuple[int, ...]:
        told = torch.tensor(numbers, dtype=torch.int64)
        self.heartbeat(collective=True)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return tuple(told.tolist())

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        total = super().all_reduce_sum(tensor).clone()
        self.heartbeat(collective=True)
        dist.all_reduce(total)
        return total

    def all_gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.world_size
        self.heartbeat(collective=True)
        dist.all_gather_object(found, value)
        return found

    def run_on_main(self, work: Callable[[], T]) -> T:
        told: list[Any] = [work() if self.rank == 0 else None]
        self.heartbeat(collective=True)
        dist.broadcast_object_list(told, src=0)
        result: T = told[0]
        return result

    def all_gather_stacked(self, tensor: Tensor) -> Tensor:
        found = tensor.new_empty((self.world_size, *tensor.shape))
        self.heartbeat(collective=True)
        dist.all_gather(list(found), tensor.contiguous())
        return found

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the option has another name from torch 2.13 on
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
    """The mean of a bucket of gradients, each element summed in the ranks' order, wherever it lies.

    A ring sums an element in an order that hangs on its place, and torch lays the buckets out anew after a process's first step: with
    three ranks or more, a run that was started again would end with other bits. (Two numbers have one sum.)
    """
    own = bucket.buffer()
    share = -(-own.numel() // ranks.world_size)
    parts = nn.functional.pad(own, (0, share * ranks.world_size - own.numel())) / ranks.world_size
    theirs = torch.empty_like(parts)
    dist.all_to_all_single(theirs, parts)
    total, *others = theirs.view(ranks.world_size, share)
    for part in others:
        total += part
    dist.all_gather(list(parts.view(ranks.world_size, share)), total)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(parts[: own.numel()])
    return done
