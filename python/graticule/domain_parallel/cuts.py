"""How a layer knows the cut of its input."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graticule.domain import Domain

Rows = int | Sequence[int] | None


def check_mode() -> bool:
    """Whether GRATICULE_CHECK asks for the ranks' calls to be compared."""
    return os.environ.get("GRATICULE_CHECK", "0") not in ("", "0")


class RowCuts:
    """The cuts that a layer has met, by its name.

    A number of local rows that is new costs one small collective, for which all ranks must come with one that is new to
    them; it is remembered after that. `rows` spares it: the number of rows of the whole input, cut in balance, or the
    N + 1 offsets of a cut.
    """

    def __init__(self, layer: str, rows: Rows = None) -> None:
        self.layer = layer
        self.rows = rows
        self._seen: dict[tuple[str, int], list[int]] = {}

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
        key = (domain.group_name, local)
        if key not in self._seen:
            self._seen[key] = list(torch.ops.graticule.row_offsets(local, domain.group_name, self.layer))
        return self._seen[key]

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
