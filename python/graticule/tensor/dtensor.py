"""DomainTensors from and to torch's DTensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributed import DeviceMesh

from graticule.domain import Domain
from graticule.tensor import functions, moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.eagerly import EagerFunction
from graticule.tensor.replicated_view import refuse_out_of_date

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

# torch.distributed.tensor takes more than a second to import: it is where it is used.


def to_dtensor(x: DomainTensor, mesh: DeviceMesh) -> DTensor:
    """The same tensor as a DTensor sharded along the cut dimension; differentiable. All ranks must call.

    Rows are moved where DTensor would have them on other ranks: it gives the first ranks more, shard gives the last.

    Args:
        x: the tensor.
        mesh: of one dimension, over the processes of x's domain in their order.

    Raises:
        ValueError: for another mesh.

    """
    from torch.distributed.tensor import DTensor, Shard

    refuse_out_of_date("to_dtensor", x)
    domain = Domain.of(mesh)
    if (domain.group_name, domain.size) != (x.domain.group_name, x.domain.size):
        raise ValueError(
            f"to_dtensor: rank {x.domain.rank}: expected a mesh over the domain {x.domain.group_name} of "
            f"{x.domain.size} ranks, got one over {domain.group_name} of {domain.size}"
        )
    cut = _chunks(x.domain, x.cut_dim, x.shape[x.cut_dim])
    local = _Recut.apply(x, cut).local
    return DTensor.from_local(local, mesh, [Shard(x.cut_dim)], run_check=False, shape=x.shape, stride=x.stride())


def from_dtensor(x: DTensor) -> DomainTensor:
    """The same tensor as a DomainTensor, over the DTensor's mesh; differentiable. Nothing travels.

    Raises:
        ValueError: for a DTensor of another kind than one sharded evenly along one dimension, over a mesh of one.

    """
    from torch.distributed.tensor import Shard

    placement = x.placements[0]
    if x.device_mesh.ndim != 1 or type(placement) is not Shard:
        raise ValueError(f"from_dtensor: expected one Shard over a mesh of one dimension, got {x.placements}")
    dim = placement.dim % x.dim()
    cut = _chunks(Domain.of(x.device_mesh), dim, x.shape[dim])
    return functions.from_local(x.to_local(grad_placements=[Shard(dim)]), cut)


def _chunks(domain: Domain, dim: int, rows: int) -> Cut:
    """DTensor's own cut, that of torch.chunk: as many rows as fit evenly, rounded up, on each rank while they last."""
    each = -(-rows // domain.size)
    return Cut(domain, dim, tuple(min(rank * each, rows) for rank in range(domain.size + 1)))


class _Recut(EagerFunction):
    @staticmethod
    def forward(ctx: Any, x: DomainTensor, cut: Cut) -> Tensor:
        ctx.cut = x._cut
        return DomainTensor(moves.recut(x._local, x._cut, cut).clone(), cut)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return functions.as_cut(gradient, ctx.cut), None
