"""Processes as ranks: over Gloo or NCCL under torchrun, over MPI under mpiexec."""

import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from graticule import Domain
from graticule.domain_parallel import gather_tensor
from support.ranks import RanksFailedError

_alive: list[Any] = []


def share_devices() -> None:
    """Gives each process a GPU, or several processes one, where there are any."""
    if not torch.cuda.is_available():
        return
    rank = int(os.environ.get("LOCAL_RANK", os.environ.get("PMI_RANK", "0")))
    torch.cuda.set_device(rank % torch.cuda.device_count())
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > torch.cuda.device_count():
        # NCCL has no two ranks use one GPU, unless it takes them for ranks of different machines.
        os.environ.update(NCCL_HOSTID=f"host{rank}", NCCL_P2P_DISABLE="1", NCCL_SHM_DISABLE="1", NCCL_IB_DISABLE="1")


def domains(transport: str, count: int) -> list[Domain]:
    """So many domains of all processes, each with traffic of its own."""
    torch.set_num_threads(1)
    share_devices()
    if transport == "mpi":
        return [Domain.mpi(f"world{i}") for i in range(count)]
    dist.init_process_group("cpu:gloo,cuda:nccl" if transport == "nccl" else "gloo")
    _alive.extend(dist.new_group() for _ in range(count))
    return [Domain.of(group) for group in _alive]


def collect(domain: Domain, value: Any) -> list[Any]:
    """Every rank's value, in rank order."""
    mine = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
    sizes = list(torch.ops.graticule.row_offsets(len(mine), domain.group_name, "collect"))
    whole = gather_tensor(mine, 0, domain).numpy().tobytes()
    return [pickle.loads(whole[a:b]) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]


def runner(domain: Domain, reports: Domain) -> Callable[[int, Callable[[Domain], Any]], list[Any]]:
    """What run_ranks is for threads: calls a function on every process; every process gets all results."""

    def run(size: int, body: Callable[[Domain], Any]) -> list[Any]:
        assert size == domain.size
        result, error = None, None
        try:
            result = body(domain)
        except Exception as raised:  # noqa: BLE001
            error = raised
        everything = collect(reports, (result, error))
        errors = {rank: error for rank, (_, error) in enumerate(everything) if error is not None}
        if errors:
            raise RanksFailedError(errors)
        return [result for result, _ in everything]

    return run


def _travels(value: Any) -> bool:
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:  # noqa: BLE001
        return False
    return True


_under_test: list[Domain] = []


def run_processes(transport: str, size: int, body: Callable[[Domain], Any]) -> list[Any]:
    """run_ranks over the processes of this program; nothing is run, and [] returned, where they are not `size`.

    A result or error that cannot be sent to the others is None or its text.
    """
    if not _under_test:
        _under_test.extend(domains(transport, 2))
    if size != _under_test[0].size:
        return []

    def portable(domain: Domain) -> Any:
        try:
            result = body(domain)
        except Exception as error:
            raise error if _travels(error) else RuntimeError(f"{type(error).__name__}: {error}") from error
        return result if _travels(result) else None

    try:
        return runner(*_under_test)(size, portable)
    except RanksFailedError:
        # A domain that failed is dead.
        _alive.append(dist.new_group())
        _under_test[0] = Domain.of(_alive[-1])
        raise


def end(transport: str) -> None:
    if transport != "mpi":
        _alive.clear()
        dist.destroy_process_group()
    else:
        torch.ops.graticule_mpi.finalize()


def arguments() -> str:
    return sys.argv[1]
