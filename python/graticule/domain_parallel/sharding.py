"""From whole tensors to shards and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.compiling import not_in_compiled_code
from graticule.domain_parallel.manager import active_domain
from graticule.exchange import wrapped_dimension
from graticule.memory_formats import memory_format_of
from graticule.own_rows import expect_own_rows


def shard_tensor(x: Tensor, dim: int = -2, manager: Any = None) -> Tensor:
    """This rank's rows of a tensor that every rank holds whole, cut in balance: rank r gets from r * G // N on.

    Sizes need not divide. Differentiable: the gradient on this rank is that of its own rows, zero elsewhere. No
    message. Without a domain, or on one rank, x itself.
    """
    domain = active_domain(manager)
    if domain is None:
        return x
    expect_own_rows(x, "shard_tensor")
    offsets = torch.ops.graticule.balanced_offsets(x.shape[dim], domain.size)
    own = x.narrow(dim, offsets[domain.rank], offsets[domain.rank + 1] - offsets[domain.rank])
    return own.clone(memory_format=memory_format_of(x))


def gather_tensor(x: Tensor, dim: int = -2, manager: Any = None) -> Tensor:
    """The whole tensor on every rank, from shards of any sizes. All ranks of the domain must call.

    Differentiable by the exact adjoint: a row's gradient is the sum of what every rank has for it. This is the gradient
    of the sum of the ranks' losses; where every rank computes the same loss of the gathered tensor, divide it by the
    number of ranks.
    """
    domain = active_domain(manager)
    if domain is None:
        return x
    not_in_compiled_code("gather_tensor")
    expect_own_rows(x, "gather_tensor")
    dim = wrapped_dimension(dim, x, "gather_tensor")
    offsets = list(torch.ops.graticule.row_offsets(x.shape[dim], domain.group_name, "gather_tensor"))
    begins = [0] * domain.size
    ends = [offsets[-1]] * domain.size
    return torch.ops.graticule.gather_rows(x, offsets, begins, ends, "none", dim, -1, False, False, domain.group_name)


def shard_batch(
    batch: dict[str, Any], spatial_dims_5d: int = -2, spatial_dims_4d: int = -2, manager: Any = None
) -> dict[str, Any]:
    """A new dictionary in which every tensor of 4 or 5 dimensions is sharded; all else is left as it is."""
    dims = {5: spatial_dims_5d, 4: spatial_dims_4d}
    return {
        key: shard_tensor(value, dims[value.dim()], manager)
        if isinstance(value, Tensor) and value.dim() in dims
        else value
        for key, value in batch.items()
    }
