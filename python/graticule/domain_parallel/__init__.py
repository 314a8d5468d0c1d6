"""The drop-in face: the names and signatures of `credit.domain_parallel`."""

from graticule.domain_parallel.convert import convert_to_domain_parallel
from graticule.domain_parallel.gradients import sync_domain_gradients
from graticule.domain_parallel.halo_exchange import HaloExchange
from graticule.domain_parallel.layers import (
    DomainParallelConv1d,
    DomainParallelConv2d,
    DomainParallelConv3d,
    DomainParallelConvTranspose1d,
    DomainParallelConvTranspose2d,
    DomainParallelConvTranspose3d,
    DomainParallelGroupNorm,
    DomainParallelInterpolate,
    DomainParallelPeriodicConv2d,
    DomainParallelUpsample,
)
from graticule.domain_parallel.manager import (
    DomainParallelManager,
    get_domain_parallel_manager,
    initialize_domain_parallel,
)
from graticule.domain_parallel.sharding import gather_tensor, shard_batch, shard_tensor

__all__ = [
    "DomainParallelConv1d",
    "DomainParallelConv2d",
    "DomainParallelConv3d",
    "DomainParallelConvTranspose1d",
    "DomainParallelConvTranspose2d",
    "DomainParallelConvTranspose3d",
    "DomainParallelGroupNorm",
    "DomainParallelInterpolate",
    "DomainParallelManager",
    "DomainParallelPeriodicConv2d",
    "DomainParallelUpsample",
    "HaloExchange",
    "convert_to_domain_parallel",
    "gather_tensor",
    "get_domain_parallel_manager",
    "initialize_domain_parallel",
    "shard_batch",
    "shard_tensor",
    "sync_domain_gradients",
]
