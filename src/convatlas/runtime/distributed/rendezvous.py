"""The rendezvous of ranks, by the variables that torchrun sets, and their end: all ranks end together."""

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

DEFAULT_TIMEOUT = 600.0  # seconds, unless CONVATLAS_TIMEOUT is set
SETTLE_SECONDS = 0.1  # for the process group's threads to become idle
_NO_TIMEOUT = timedelta(days=30)  # for torch: the watchdog decides how long to wait
_rendezvous_count = itertools.count()


@contextmanager
def init_ranks(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """Yield the ranks that torchrun's variables describe, SINGLE_PROCESS where they are not set.

    An error of one rank ends all: it is raised on the rank where it occurred, and as FailedOnOtherRank on the
    others; a rank that is waiting in a collective at that time ends its process. Raises UsageError for
    invalid variables or a port in use, UserError when not all ranks join within CONVATLAS_TIMEOUT seconds, or
    when one has died.
    """
    if not {"RANK", "WORLD_SIZE"} & set(environment):
        yield SINGLE_PROCESS
        return
    rank = _read_number(environment, "RANK")
    world_size = _read_number(environment, "WORLD_SIZE")
    local_rank = _read_number(environment, "LOCAL_RANK")
    local_world_size = _read_number(environment, "LOCAL_WORLD_SIZE")
    restart_count = int(environment.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if world_size == 1:
        yield Ranks(0, 1, local_rank, local_world_size, restart_count)
        return
    watchdog = _rendezvous(environment, rank, world_size, restart_count)
    try:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        store = PrefixStore("group", watchdog.store)
        try:
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=world_size, timeout=_NO_TIMEOUT
            )
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"the {world_size} ranks cannot form a group: {reason}") from None
        ranks = DistributedRanks(
            rank, world_size, local_rank, local_world_size, restart_count, watchdog=watchdog
        )
        yield ranks
    except BaseException as error:
        if isinstance(error, StoppedBySignal) and error.agreed:  # on all ranks, at the same step, and saved
            watchdog.stop()
            with suppress(RuntimeError):
                ranks.all_reduce_max(0)
                _destroy_group()
            if rank:
                raise FailedOnOtherRank(error.exit_code) from None
            raise
        cause = watchdog.resolve_failure(error)
        if cause is error:
            raise
        raise cause from error
    watchdog.stop()
    ranks.all_reduce_max(0)
    _destroy_group()


def _destroy_group() -> None:
    """Leave the process group and free everything that refers to it: its threads must not outlive the
    interpreter."""
    gc.collect()
    # A gloo thread that frees the last message needs Python's lock for its tensor, and holds a lock of its
    # own. The end of the group waits for that lock while it holds Python's: each would wait for the other.
    time.sleep(SETTLE_SECONDS)
    dist.destroy_process_group()


def _read_number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdigit():
        problem = f"is {text!r}" if text else "is not set, although others of torchrun's variables are"
        raise UsageError(
            f"{name} {problem}: start the ranks with torchrun --nproc-per-node N -m convatlas train ..."
        )
    return int(text)


def timeout_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """The seconds that ranks wait for a rank that does not join or makes no progress. Raises UsageError."""
    text = environment.get("CONVATLAS_TIMEOUT", str(DEFAULT_TIMEOUT))
    with suppress(ValueError):
        if float(text) > 0:
            return float(text)
    raise UsageError(f"CONVATLAS_TIMEOUT is {text!r}: expected seconds, more than 0")


def _rendezvous(environment: Mapping[str, str], rank: int, world_size: int, restart_count: int) -> Watchdog:
    """Connect to the store by which the ranks communicate, and wait until all ranks have joined."""
    if dist.is_initialized():
        raise UsageError(
            "this process is already in a process group: leave it before a training, which forms its own"
        )
    host = environment.get("MASTER_ADDR", "localhost")
    port = _read_number(environment, "MASTER_PORT")
    timeout = timeout_seconds(environment)
    store_on_rank_0 = environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else in torchrun's process
    hosts_store = store_on_rank_0 and rank == 0
    if hosts_store:
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            raise UsageError(
                f"port {port} cannot be used ({os.strerror(error.errno or 0)}): choose another with torchrun "
                f"--master-port N, or use --standalone"
            ) from None

    def connect(is_host: bool) -> Store:
        store = TCPStore(host, port, world_size, is_host, timedelta(seconds=timeout), wait_for_workers=False)
        return PrefixStore(f"convatlas/{restart_count}/{number}", store)

    number = next(_rendezvous_count)
    try:
        if not hosts_store:
            _wait_for_port(host, port, timeout)
        store = connect(hosts_store)
        watchdog = Watchdog(rank, world_size, store, connect(False), store_on_rank_0, timeout)
        absent = watchdog.wait_for_all()
    except (RuntimeError, OSError):
        raise UserError(
            f"rank {rank} cannot reach the other ranks at {host}, port {port}, within {timeout:g} s: check "
            f"that rank 0 was started there"
        ) from None
    if absent:
        names = f"rank {absent[0]} has" if len(absent) == 1 else f"ranks {', '.join(map(str, absent))} have"
        raise watchdog.resolve_failure(
            UserError(
                f"{names} not joined within {timeout:g} s (expected {world_size} ranks): read their output, "
                f"or wait longer with CONVATLAS_TIMEOUT"
            )
        )
    watchdog.start()
    return watchdog


def _wait_for_port(host: str, port: int, timeout: float) -> None:
    """Wait until the port accepts a connection. Raises OSError, since torch's own error has twenty lines."""
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=timeout).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
