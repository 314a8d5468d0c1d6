"""The halo of a layer, as a module of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graticule.compiling import fixed_shape
from graticule.domain import Domain
from graticule.domain_parallel.cuts import RowCuts, Rows
from graticule.domain_parallel.manager import active_domain
from graticule.exchange import gather_rows_of_each, wrapped_dimension


class HaloExchange(nn.Module):
    """Adds to a shard the `halo_width` rows before and after it: other ranks' rows, zeros beyond the grid.

    Any width, over as many ranks as it takes. Differentiable by the adjoint: gradients of halo rows travel back to
    their
    owners and are added. All ranks of the domain must call. Without a domain, or on one rank, x itself.
    """

    def __init__(self, halo_width: int, dim: int = -2, *, domain: Any = None, rows: Rows = None) -> None:
        super().__init__()
        if halo_width < 0:
            raise ValueError(f"HaloExchange: expected a halo_width of at least 0, got {halo_width}")
        self.halo_width = halo_width
        self.dim = dim
        self.domain = None if domain is None else Domain.of(domain)
        self._cuts = RowCuts("HaloExchange", rows)

    def forward(self, x: Tensor, *more: Tensor) -> Any:
        """X with this rank's rows along dim -> the same with 2 * halo_width more.

        Of several tensors with the same rows a tuple of as many: what goes to one rank is one message.
        """
        domain = active_domain(self.domain)
        if domain is None or self.halo_width == 0:
            return (x, *more) if more else x
        x = fixed_shape(x)
        dim = wrapped_dimension(self.dim, x, "HaloExchange")
        offsets = self._cuts.offsets(x, dim, domain, self)
        begins = [first - self.halo_width for first in offsets[:-1]]
        ends = [last + self.halo_width for last in offsets[1:]]
        if more:
            own = (offsets, begins, ends, "zeros", self.dim)
            return tuple(gather_rows_of_each((x, *more), domain, *own))
        return torch.ops.graticule.gather_rows(
            x, offsets, begins, ends, "zeros", dim, -1, False, False, domain.op_group
        )

    @staticmethod
    def trim(x: Tensor, before: int, after: int, dim: int = -2) -> Tensor:
        """X without its first `before` and last `after` rows."""
        return x.narrow(dim, before, x.shape[dim] - before - after)

    def extra_repr(self) -> str:  # noqa: D102
        return f"halo_width={self.halo_width}, dim={self.dim}"
