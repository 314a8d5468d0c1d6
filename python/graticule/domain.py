"""The process group over which one sample is cut."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import torch
import torch.distributed as dist

from graticule import _library
from graticule.compiling import at_trace_time

# What mpiexec sets: MPICH and its kin, Open MPI, Slurm's PMI.
_MPI_LAUNCHERS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")


@at_trace_time
def _place_in(group: str | dist.ProcessGroup) -> tuple[str, int, int]:
    if isinstance(group, str):
        return group, torch.ops.graticule.domain_rank(group), torch.ops.graticule.domain_size(group)
    return group.group_name, group.rank(), group.size()


@dataclasses.dataclass(frozen=True)
class Domain:
    """A process group, as one of its ranks sees it. Ranks count within the group.

    The group's registry holds no ownership: whoever made the group keeps it alive.
    """

    group_name: str
    rank: int
    size: int

    @property
    def op_group(self) -> str:
        """What an op takes for its group: the name, and in traced code this rank beside it.

        Shapes in traced code are this rank's. Elsewhere such code is an error.
        """
        if torch.compiler.is_compiling():
            return f"{self.group_name}, rank {self.rank} of {self.size}"
        return self.group_name

    @property
    def bytes_sent(self) -> int:
        """Bytes of values that this rank has sent over the group so far, in exchanges and small collectives."""
        return torch.ops.graticule.domain_bytes_sent(self.group_name)

    @property
    def messages_sent(self) -> int:
        """Messages, as bytes_sent counts them; a transport's own collective counts as one to each other rank."""
        return torch.ops.graticule.domain_messages_sent(self.group_name)

    @staticmethod
    def of(source: Any) -> Domain:
        """A domain from a Domain, a process group, a DeviceMesh of one dimension, a DomainParallelManager or a name.

        Of a mesh of several dimensions take one: Domain.of(mesh["latitude"]). A name is a process group's.
        """
        if isinstance(source, Domain):
            return source
        if isinstance(getattr(source, "domain", None), Domain):
            return source.domain
        if isinstance(source, dist.DeviceMesh):
            if source.ndim != 1:
                raise ValueError(
                    f"expected one dimension of a DeviceMesh, as mesh['latitude'], got a mesh of {source.ndim}: "
                    f"{source.mesh_dim_names}"
                )
            source = source.get_group()
        if hasattr(source, "domain_group"):
            source = source.domain_group
        if isinstance(source, (str, dist.ProcessGroup)):
            return Domain(*_place_in(source))
        raise TypeError(
            "expected a Domain, a process group, a DeviceMesh of one dimension, a DomainParallelManager or a group's "
            f"name, got {type(source)}"
        )

    @staticmethod
    def from_env() -> Domain:
        """All processes of this program, however it was started. Every one must call.

        The default process group where there is one; else torchrun's processes, for which one is made (Gloo, and NCCL
        for the tensors of a GPU where this process has one: give each process its own by
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"])) before); else the ranks of an MPI launcher; else this
        process alone. Called again it gives the same.
        """
        if dist.is_initialized():
            return Domain.of(dist.group.WORLD)
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
            return Domain.of(dist.group.WORLD)
        if any(name in os.environ for name in _MPI_LAUNCHERS):
            return _mpi_world()
        return _this_process()

    @staticmethod
    def threads(world: str, rank: int, size: int) -> Domain:
        """Rank `rank` of `size` threads of this process that share the name `world`: for tests and trials."""
        return Domain.of(torch.ops.graticule.create_thread_group(world, rank, size))

    @staticmethod
    def mpi(name: str = "graticule_world") -> Domain:
        """All ranks of the MPI program. Initialises MPI if nobody has; every rank must call."""
        _library.load_mpi()
        return Domain.of(torch.ops.graticule_mpi.create_world_group(name))


@functools.cache
def _mpi_world() -> Domain:
    return Domain.mpi()


@functools.cache
def _this_process() -> Domain:
    return Domain.threads("this process", 0, 1)
