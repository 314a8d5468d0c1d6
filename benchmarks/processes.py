"""What each process of a benchmark has: its rank, a domain over MPI and one over Gloo, and the meeting."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import torch
import torch.distributed as dist

from benchmarks.meeting import Meeting
from graticule import Domain


@dataclasses.dataclass
class Processes:
    rank: int
    size: int
    mpi: Domain
    gloo: Domain
    meeting: Meeting


def begin(shared: pathlib.Path) -> Processes:
    """`shared` is a fresh folder from `prepare`, seen by all ranks."""
    torch.set_num_threads(1)
    mpi = Domain.mpi()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.FileStore(str(shared / "store"), mpi.size)
    dist.init_process_group("gloo", store=store, rank=mpi.rank, world_size=mpi.size)
    return Processes(
        mpi.rank, mpi.size, mpi, Domain.of(dist.new_group()), Meeting(shared / "meeting", mpi.rank, mpi.size)
    )


def prepare(shared: pathlib.Path, size: int) -> None:
    shared.mkdir(parents=True)
    Meeting.create(shared / "meeting", size)


def end(processes: Processes) -> None:
    processes.meeting.gather()
    dist.destroy_process_group()
    torch.ops.graticule_mpi.finalize()
