"""How a layer knows the cut of its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graticule.domain import Domain
from graticule.environment import check_mode

Rows = int | Sequence[int] | None


class RowCuts:
    """The cuts that a layer has met, by its name.

    The first call costs one small collective, and the cut is remembered. A number of local rows that is new costs
    another one, for which all ranks must come with one that is new to them; from then on no rank can know by its own
    rows which cut is meant, and every call costs one. `rows` spares them all: the number of rows of the whole input,
    cut in balance, or the N + 1 offsets of a cut.
    """

    def __init__(self, layer: str, rows: Rows = None) -> None:
        self.layer = layer
        self.rows = rows
        self._seen: dict[str, list[tuple[int, list[int]]]] = {}

    def offsets(self, x: Tensor, dim: int, domain: Domain, arguments: Any = "") -> list[int]:
        """The cut of x along dim: N + 1 offsets. In check mode the ranks compare what `arguments` prints too."""
        if check_mode():
            sizes = [s for d, s in enumerate(x.shape) if d != dim]
            facts = f"{x.dim()}-D {x.dtype} cut in dimension {dim}, {sizes}, {arguments}"
            torch.ops.graticule.check_equal(self.layer, facts, domain.group_name)
            self._seen.clear()
        local = x.shape[dim]
        if self.rows is not None:
            return self._given(local, domain)
        seen = self._seen.setdefault(domain.group_name, [])
        if len(seen) == 1 and seen[0][0] == local:
            return seen[0][1]
        offsets = list(torch.ops.graticule.row_offsets(local, domain.group_name, self.layer))
        # How many cuts were met is what every rank knows alike.
        if len(seen) < 2:
            seen.append((local, offsets))
        return offsets

    def _given(self, local: int, domain: Domain) -> list[int]:
        assert self.rows is not None
        if isinstance(self.rows, int):
            return list(torch.ops.graticule.balanced_offsets(self.rows, domain.size))
        offsets = list(self.rows)
        if len(offsets) != domain.size + 1:
            raise ValueError(
                f"{self.layer}: expected rows to be {domain.size + 1} offsets, got {len(offsets)} "
                f"(rank {domain.rank} of {domain.size})"
            )
        return offsets

    def __deepcopy__(self, memo: dict) -> RowCuts:
        return RowCuts(self.layer, self.rows)
