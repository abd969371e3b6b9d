"""How ranks come together, by the variables that torchrun sets, and how they part: all at once, whatever ends one of them."""

import gc
import itertools
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from convatlas.errors import FailedOnOtherRank, UsageError, UserError
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, DistributedRanks, Ranks
from convatlas.runtime.distributed.watchdog import Watchdog
from convatlas.runtime.signals import StoppedBySignal

DEFAULT_TIMEOUT = 600.0  # seconds; CONVATLAS_PATIENCE says otherwise
SETTLE_SECONDS = 0.1  # seconds for the group's threads to come to rest
_NO_TIMEOUT = timedelta(days=30)  # for torch: whether to wait on is the watch's to say
_rendezvous_count = itertools.count()


@contextmanager
def init_ranks(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """The ranks that torchrun's variables tell of, ALONE where there are none.

    An error of one rank ends all of them: it is raised where it was met, and `Said` elsewhere, or the process ends when another rank's
    error is seen while it waits. Raises UsageError for variables that make no sense or a port in use, UserError when not all ranks
    come within CONVATLAS_PATIENCE seconds, or when one has gone.
    """
    if not {"RANK", "WORLD_SIZE"} & set(environment):
        yield SINGLE_PROCESS
        return
    rank, count = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    local, beside = _number(environment, "LOCAL_RANK"), _number(environment, "LOCAL_WORLD_SIZE")
    restarts = int(environment.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if count == 1:
        yield Ranks(0, 1, local, beside, restarts)
        return
    watch = _rendezvous(environment, rank, count, restarts)
    try:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        store = PrefixStore("group", watch.store)
        try:
            dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_NO_TIMEOUT)
        except RuntimeError as error:
            raise UserError(f"the {count} ranks cannot form a group: {str(error).partition(chr(10))[0]}") from None
        ranks = DistributedRanks(rank, count, local, beside, restarts, watchdog=watch)
        yield ranks
    except StoppedBySignal as stopped:  # all of them, at the same step
        watch.stop()
        with suppress(RuntimeError):
            ranks.all_reduce_max(0)  # nobody leaves before rank 0 has saved
            _destroy_group()
        if rank:
            raise FailedOnOtherRank(stopped.exit_code) from None
        raise
    except BaseException as error:
        cause = watch.resolve_failure(error)
        if cause is error:
            raise
        raise cause from error
    watch.stop()
    ranks.all_reduce_max(0)
    _destroy_group()


def _destroy_group() -> None:
    """Leave the group, with all that holds on to it: its threads must not outlive the interpreter."""
    gc.collect()
    # A thread of gloo that lets go of the last message needs Python's lock for its tensor, and holds one of its own, which the group's
    # end waits for with Python's: each would wait for the other.
    time.sleep(SETTLE_SECONDS)
    dist.destroy_process_group()


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdigit():
        found = f"is {text!r}" if text else "is not set, although others of torchrun's variables are"
        raise UsageError(f"{name} {found}: start the ranks with torchrun --nproc-per-node N -m convatlas train ...")
    return int(text)


def timeout_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """The seconds that ranks wait for one that does not come or does not get on."""
    text = environment.get("CONVATLAS_PATIENCE", str(DEFAULT_TIMEOUT))
    with suppress(ValueError):
        if float(text) > 0:
            return float(text)
    raise UsageError(f"CONVATLAS_PATIENCE is {text!r}: expected seconds, more than 0")


def _rendezvous(environment: Mapping[str, str], rank: int, count: int, restarts: int) -> Watchdog:
    """Find the store where all ranks leave word for each other, and wait until all are there."""
    if dist.is_initialized():
        raise UsageError("this process is in a process group already: leave it before a training, which forms its own")
    host, port, seconds = environment.get("MASTER_ADDR", "localhost"), _number(environment, "MASTER_PORT"), timeout_seconds(environment)
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

    number = next(_rendezvous_count)
    try:
        if not keeper:
            _wait_for_port(host, port, seconds)
        store = connect(keeper)
        watch = Watchdog(rank, count, store, connect(False), kept, seconds)
        absent = watch.wait_for_all()
    except (RuntimeError, OSError):
        raise UserError(
            f"rank {rank} cannot reach the other ranks at {host}, port {port}, within {seconds:g} s: look whether rank 0 was started there"
        ) from None
    if absent:
        who = f"rank {absent[0]} has" if len(absent) == 1 else f"ranks {', '.join(map(str, absent))} have"
        raise watch.resolve_failure(
            UserError(
                f"{who} not come within {seconds:g} s, of {count} in all: look at what they say, or wait longer with CONVATLAS_PATIENCE"
            )
        )
    watch.start()
    return watch


def _wait_for_port(host: str, port: int, seconds: float) -> None:
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
