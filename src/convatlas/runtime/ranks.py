"""The processes that train together: who this one is, and what they tell each other. One that trains by itself is the plain case.

What they tell each other travels over gloo, also where they compute on CUDA, so that no message waits for the device; gradients and
batch norm's statistics go where the tensors are.
"""

import gc
import itertools
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket, PrefixStore, Store, TCPStore
from torch.nn.parallel import DistributedDataParallel

from convatlas.errors import Said, UsageError, UserError
from convatlas.runtime.stopping import Stopped
from convatlas.runtime.watch import Watch

T = TypeVar("T")
PATIENCE = 600.0  # seconds; CONVATLAS_PATIENCE says otherwise
_FOREVER = timedelta(days=30)  # for torch: whether to wait on is the watch's to say
_joined = itertools.count()


@dataclass(frozen=True)
class Ranks:
    """This process is `rank` of `count`, and `local` of the `beside` that are on its machine; torchrun has started them anew `restarts`
    times. Its methods are the no-ops of a process that trains by itself; `Together` has the same for several."""

    rank: int = 0
    count: int = 1
    local: int = 0
    beside: int = 1
    restarts: int = 0

    def any(self, *numbers: int) -> tuple[int, ...]:
        """Of each number the largest that a rank has: of flags, whether anybody has it set."""
        return numbers

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, in float64, on the CPU."""
        return tensor.detach().to("cpu", torch.float64)

    def gather(self, value: T) -> list[T]:
        """What each rank has, in the ranks' order."""
        return [value]

    def first(self, work: Callable[[], T]) -> T:
        """What rank 0 alone does; the others wait for what comes of it."""
        return work()

    def rows(self, tensor: Tensor) -> Tensor:
        """(ranks, ...): each rank's tensor, of one shape, where the tensor is."""
        return tensor[None]

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, whose backward leaves in its parameters the mean of all ranks' gradients."""
        return module

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        """A forward in here adds up this rank's own gradients, until one outside exchanges the sum."""
        return nullcontext()

    def align(self, module: nn.Module) -> None:
        """Give the module's buffers, such as batch norm's running statistics, the values that rank 0 has."""

    def beat(self, arrived: bool = False) -> None:
        """A sign of life. `arrived`: at something that all ranks do, so that whoever has not arrived is behind."""


ALONE = Ranks()


@dataclass(frozen=True)
class Together(Ranks):
    """One of several. The methods are for all ranks to call, in the same order."""

    _: KW_ONLY
    watch: Watch

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # a copy of a module talks to the same ranks

    def any(self, *numbers: int) -> tuple[int, ...]:
        told = torch.tensor(numbers, dtype=torch.int64)
        self.beat(arrived=True)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return tuple(told.tolist())

    def sum(self, tensor: Tensor) -> Tensor:
        total = super().sum(tensor).clone()
        self.beat(arrived=True)
        dist.all_reduce(total)
        return total

    def gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.count
        self.beat(arrived=True)
        dist.all_gather_object(found, value)
        return found

    def first(self, work: Callable[[], T]) -> T:
        told: list[Any] = [work() if self.rank == 0 else None]
        self.beat(arrived=True)
        dist.broadcast_object_list(told, src=0)
        result: T = told[0]
        return result

    def rows(self, tensor: Tensor) -> Tensor:
        found = tensor.new_empty((self.count, *tensor.shape))
        self.beat(arrived=True)
        dist.all_gather(list(found), tensor.contiguous())
        return found

    def wrap(self, module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the option has another name from torch 2.13 on
            wrapped = DistributedDataParallel(module, broadcast_buffers=False)
        if self.count > 2 and next(module.parameters()).device.type == "cpu":
            wrapped.register_comm_hook(self, _mean_in_order)
        return wrapped

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        assert isinstance(module, DistributedDataParallel)
        return module.no_sync()

    def align(self, module: nn.Module) -> None:
        self.beat(arrived=True)
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)

    def beat(self, arrived: bool = False) -> None:
        self.watch.beat(arrived)


def _mean_in_order(ranks: Together, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """The mean of a bucket of gradients, each element summed in the ranks' order, wherever it lies.

    A ring sums an element in an order that hangs on its place, and torch lays the buckets out anew after a process's first step: with
    three ranks or more, a run that was started again would end with other bits. (Two numbers have one sum.)
    """
    own = bucket.buffer()
    share = -(-own.numel() // ranks.count)
    parts = nn.functional.pad(own, (0, share * ranks.count - own.numel())) / ranks.count
    theirs = torch.empty_like(parts)
    dist.all_to_all_single(theirs, parts)
    total, *others = theirs.view(ranks.count, share)
    for part in others:
        total += part
    dist.all_gather(list(parts.view(ranks.count, share)), total)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(parts[: own.numel()])
    return done


@contextmanager
def join(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """The ranks that torchrun's variables tell of, ALONE where there are none.

    An error of one rank ends all of them: it is raised where it was met, and `Said` elsewhere, or the process ends when another rank's
    error is seen while it waits. Raises UsageError for variables that make no sense or a port in use, UserError when not all ranks
    come within CONVATLAS_PATIENCE seconds, or when one has gone.
    """
    if not {"RANK", "WORLD_SIZE"} & set(environment):
        yield ALONE
        return
    rank, count = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    local, beside = _number(environment, "LOCAL_RANK"), _number(environment, "LOCAL_WORLD_SIZE")
    restarts = int(environment.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if count == 1:
        yield Ranks(0, 1, local, beside, restarts)
        return
    watch = _meet(environment, rank, count, restarts)
    try:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        store = PrefixStore("group", watch.store)
        try:
            dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_FOREVER)
        except RuntimeError as error:
            raise UserError(f"the {count} ranks cannot form a group: {str(error).partition(chr(10))[0]}") from None
        ranks = Together(rank, count, local, beside, restarts, watch=watch)
        yield ranks
    except Stopped as stopped:  # all of them, at the same step
        watch.leave()
        with suppress(RuntimeError):
            ranks.any(0)  # nobody leaves before rank 0 has saved
            _part()
        if rank:
            raise Said(stopped.exit_code) from None
        raise
    except BaseException as error:
        cause = watch.cause(error)
        if cause is error:
            raise
        raise cause from error
    watch.leave()
    ranks.any(0)
    _part()


def _part() -> None:
    """Leave the group, with all that holds on to it: its threads must not outlive the interpreter."""
    gc.collect()
    dist.destroy_process_group()


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdigit():
        found = f"is {text!r}" if text else "is not set, although others of torchrun's variables are"
        raise UsageError(f"{name} {found}: start the ranks with torchrun --nproc-per-node N -m convatlas train ...")
    return int(text)


def patience(environment: Mapping[str, str] = os.environ) -> float:
    """The seconds that ranks wait for one that does not come or does not get on."""
    text = environment.get("CONVATLAS_PATIENCE", str(PATIENCE))
    with suppress(ValueError):
        if float(text) > 0:
            return float(text)
    raise UsageError(f"CONVATLAS_PATIENCE is {text!r}: expected seconds, more than 0")


def _meet(environment: Mapping[str, str], rank: int, count: int, restarts: int) -> Watch:
    """Find the store where all ranks leave word for each other, and wait until all are there."""
    if dist.is_initialized():
        raise UsageError("this process is in a process group already: leave it before a training, which forms its own")
    host, port, seconds = environment.get("MASTER_ADDR", "localhost"), _number(environment, "MASTER_PORT"), patience(environment)
    kept = environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # by rank 0, not by torchrun
    keeper = kept and rank == 0
    if keeper:
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            raise UsageError(
                f"port {port} cannot be used ({os.strerror(error.errno or 0)}): choose another with torchrun --master-port N, "
                f"or use --standalone"
            ) from None

    def connect(keeper: bool) -> Store:
        store = TCPStore(host, port, count, keeper, timedelta(seconds=seconds), wait_for_workers=False)
        return PrefixStore(f"convatlas/{restarts}/{number}", store)

    number = next(_joined)
    try:
        if not keeper:
            _knock(host, port, seconds)
        store = connect(keeper)
        watch = Watch(rank, count, store, connect(False), kept, seconds)
        absent = watch.call()
    except (RuntimeError, OSError):
        raise UserError(
            f"rank {rank} cannot reach the other ranks at {host}, port {port}, within {seconds:g} s: look whether rank 0 was started there"
        ) from None
    if absent:
        who = f"rank {absent[0]} has" if len(absent) == 1 else f"ranks {', '.join(map(str, absent))} have"
        raise watch.cause(
            UserError(
                f"{who} not come within {seconds:g} s, of {count} in all: look at what they say, or wait longer with CONVATLAS_PATIENCE"
            )
        )
    watch.start()
    return watch


def _knock(host: str, port: int, seconds: float) -> None:
    """Wait until somebody answers. Raises OSError when nobody does; torch would say it in twenty lines."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
