"""The process group over which one sample is cut."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.distributed as dist

from graticule import _library
from graticule.compiling import at_trace_time


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

    @staticmethod
    def of(source: Any) -> Domain:
        """A domain from a Domain, a torch.distributed process group, a DomainParallelManager or a group's name."""
        if isinstance(source, Domain):
            return source
        if isinstance(getattr(source, "domain", None), Domain):
            return source.domain
        if hasattr(source, "domain_group"):
            source = source.domain_group
        if isinstance(source, (str, dist.ProcessGroup)):
            return Domain(*_place_in(source))
        raise TypeError(
            f"expected a Domain, a process group, a DomainParallelManager or a group's name, got {type(source)}"
        )

    @staticmethod
    def threads(world: str, rank: int, size: int) -> Domain:
        """Rank `rank` of `size` threads of this process that share the name `world`: for tests and trials."""
        return Domain.of(torch.ops.graticule.create_thread_group(world, rank, size))

    @staticmethod
    def mpi(name: str = "graticule_world") -> Domain:
        """All ranks of the MPI program. Initialises MPI if nobody has; every rank must call."""
        _library.load_mpi()
        return Domain.of(torch.ops.graticule_mpi.create_world_group(name))
