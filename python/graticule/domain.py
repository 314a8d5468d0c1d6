"""The process group over which one sample is cut."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.distributed as dist

from graticule import _library


@dataclasses.dataclass(frozen=True)
class Domain:
    """A process group, as one of its ranks sees it. Ranks count within the group.

    The group's registry holds no ownership: whoever made the group keeps it alive.
    """

    group_name: str
    rank: int
    size: int

    @staticmethod
    def of(source: Any) -> Domain:
        """A domain from a Domain, a torch.distributed process group, a DomainParallelManager or a group's name."""
        if isinstance(source, Domain):
            return source
        if hasattr(source, "domain_group"):
            source = source.domain_group
        if isinstance(source, str):
            ops = torch.ops.graticule
            return Domain(source, ops.domain_rank(source), ops.domain_size(source))
        if isinstance(source, dist.ProcessGroup):
            return Domain(source.group_name, source.rank(), source.size())
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
