"""The two-dimensional layout of processes: domain by data."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from graticule.domain import Domain

_manager: DomainParallelManager | None = None


class DomainParallelManager:
    """Process groups of `world_size` ranks in domains of `domain_parallel_size`.

    Ranks of one domain hold the shards of one sample; ranks at the same place in each domain hold different samples.
    With 8 ranks in domains of 2 the domains are [0, 1], [2, 3], [4, 5], [6, 7] and the data-parallel groups
    [0, 2, 4, 6], [1, 3, 5, 7]. torch.distributed must be initialised; every rank must construct the manager.

    Raises:
        ValueError: where the sizes do not divide, or world_size is not that of torch.distributed.

    """

    def __init__(self, world_size: int, domain_parallel_size: int, shard_dim: int = -2) -> None:
        if domain_parallel_size < 1 or world_size % domain_parallel_size != 0:
            raise ValueError(
                f"DomainParallelManager: domains of {domain_parallel_size} ranks do not divide a world of {world_size}"
            )
        if not dist.is_initialized():
            raise ValueError("DomainParallelManager: call torch.distributed.init_process_group first")
        if world_size != dist.get_world_size():
            raise ValueError(
                f"DomainParallelManager: expected world_size {dist.get_world_size()}, as torch.distributed has it, "
                f"got {world_size}"
            )
        self.world_size = world_size
        self.domain_parallel_size = domain_parallel_size
        self.data_parallel_size = world_size // domain_parallel_size
        self.shard_dim = shard_dim
        self._rank = dist.get_rank()
        # Every rank takes part in making every group. The groups are the library's own: nobody else's
        # traffic is in them.
        self._domain_group = self._make_groups(
            [list(range(first, first + domain_parallel_size)) for first in range(0, world_size, domain_parallel_size)]
        )
        self._domain = Domain.of(self._domain_group)
        self._data_parallel_group = self._make_groups(
            [list(range(place, world_size, domain_parallel_size)) for place in range(domain_parallel_size)]
        )

    def _make_groups(self, members: list[list[int]]) -> Any:
        own = None
        for ranks in members:
            group = dist.new_group(ranks)
            if self._rank in ranks:
                own = group
        return own

    @property
    def domain(self) -> Domain:
        """The domain of this rank."""
        return self._domain

    @property
    def domain_group(self) -> Any:
        """The process group over which this rank's sample is cut."""
        return self._domain_group

    @property
    def data_parallel_group(self) -> Any:
        """The process group of the ranks that hold the same shard of other samples."""
        return self._data_parallel_group

    @property
    def domain_rank(self) -> int:
        """This rank's place in its domain."""
        return self._rank % self.domain_parallel_size

    @property
    def domain_world_size(self) -> int:
        """Ranks in a domain."""
        return self.domain_parallel_size

    @property
    def dp_rank(self) -> int:
        """This rank's place in its data-parallel group."""
        return self._rank // self.domain_parallel_size

    @property
    def dp_world_size(self) -> int:
        """Ranks in a data-parallel group."""
        return self.data_parallel_size

    @property
    def is_first_domain_rank(self) -> bool:
        """Whether this rank holds row 0."""
        return self.domain_rank == 0

    @property
    def is_last_domain_rank(self) -> bool:
        """Whether this rank holds the last row."""
        return self.domain_rank == self.domain_parallel_size - 1

    def neighbor_ranks(self) -> tuple[int | None, int | None]:
        """Global ranks of the neighbours before and after this one; None beyond the first and the last."""
        before = None if self.is_first_domain_rank else self._rank - 1
        after = None if self.is_last_domain_rank else self._rank + 1
        return before, after


def initialize_domain_parallel(
    world_size: int, domain_parallel_size: int, shard_dim: int = -2
) -> DomainParallelManager:
    """Makes the manager that every layer without a domain of its own uses. Every rank must call."""
    global _manager
    _manager = DomainParallelManager(world_size, domain_parallel_size, shard_dim)
    return _manager


def get_domain_parallel_manager() -> DomainParallelManager | None:
    """The process-wide manager, or None before initialize_domain_parallel."""
    return _manager


_plain = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain_layers() -> Iterator[None]:
    """Within it every layer is its plain self, on the whole tensor."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def active_domain(given: Any) -> Domain | None:
    """The domain to work over: the given one, else the process-wide manager's. None: there is none, or of one rank."""
    # Nothing that torch.compile traces runs within plain_layers, and it cannot trace a context variable.
    if not torch.compiler.is_dynamo_compiling() and _plain.get():
        return None
    source = given if given is not None else _manager
    if source is None:
        return None
    domain = source if type(source) is Domain else Domain.of(source)
    return domain if domain.size > 1 else None
