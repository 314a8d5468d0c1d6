"""How a layer knows the cut of its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graticule.compiling import at_trace_time
from graticule.domain import Domain
from graticule.environment import check_mode, traced_check_mode
from graticule.own_rows import expect_own_rows

Rows = int | Sequence[int] | None


def printed(value: Any) -> str:
    """As str() does, and a module whose options torch does not print: a number where there is one a dimension."""
    try:
        return str(value)
    except TypeError:
        options = {name: getattr(value, name, None) for name in getattr(value, "__constants__", ())}
        return f"{type(value).__name__}({options})"


@at_trace_time
def _facts(sizes: Sequence[int], dtype: torch.dtype, dim: int, *arguments: Any) -> str:
    across = [size for d, size in enumerate(sizes) if d != dim]
    return f"{len(sizes)}-D {dtype} cut in dimension {dim}, {across}, {', '.join(map(printed, arguments))}"


@at_trace_time
def _remember(cuts: RowCuts, local: int, group_name: str, rank: int, size: int) -> list[int]:
    return cuts.remember(local, Domain(group_name, rank, size))


class RowCuts:
    """The cuts that a layer has met, by its name.

    The first call costs one small collective, and the cut is remembered. A number of local rows that is new costs
    another one, for which all ranks must come with one that is new to them; from then on no rank can know by its own
    rows which cut is meant, and every call costs one. `rows` spares them all: the number of rows of the whole input,
    cut in balance, or the N + 1 offsets of a cut.

    Traced code knows one cut: the given one, or the one that was met before, or else the one that is there when it is
    traced, for which all ranks must trace at the same call. Another one is an error there.
    """

    def __init__(self, layer: str, rows: Rows = None) -> None:
        self.layer = layer
        self.rows = rows
        self._seen: dict[str, list[tuple[int, list[int]]]] = {}

    def offsets(self, x: Tensor, dim: int, domain: Domain, *arguments: Any) -> list[int]:
        """The cut of x along dim: N + 1 offsets. In check mode the ranks compare what `arguments` print too."""
        expect_own_rows(x, self.layer)
        local = x.shape[dim]
        if torch.compiler.is_compiling():
            return self._traced_offsets(x, dim, domain, arguments)
        if check_mode():
            torch.ops.graticule.check_equal(self.layer, _facts(x.shape, x.dtype, dim, *arguments), domain.group_name)
            self._seen.clear()
        if self.rows is not None:
            return self._given(domain)
        seen = self._seen.setdefault(domain.group_name, [])
        if len(seen) == 1 and seen[0][0] == local:
            return seen[0][1]
        offsets = list(torch.ops.graticule.row_offsets(local, domain.group_name, self.layer))
        # How many cuts were met is what every rank knows alike.
        if len(seen) < 2:
            seen.append((local, offsets))
        return offsets

    def _traced_offsets(self, x: Tensor, dim: int, domain: Domain, arguments: tuple) -> list[int]:
        if self.rows is not None:
            offsets = self._given(domain)
        else:
            offsets = list(_remember(self, x.shape[dim], domain.group_name, domain.rank, domain.size))
        if traced_check_mode():
            # Code that is compiled for another cut on another rank differs in this too.
            facts = f"{_facts(tuple(x.shape), x.dtype, dim, *arguments)}, cut {offsets}"
            torch.ops.graticule.check_equal(self.layer, facts, domain.op_group)
        return offsets

    def remember(self, local: int, domain: Domain) -> list[int]:
        """The only cut that this layer has met, or meets now. RuntimeError where it is not of `local` rows."""
        seen = self._seen.setdefault(domain.group_name, [])
        if not seen:
            seen.append((local, list(torch.ops.graticule.row_offsets(local, domain.group_name, self.layer))))
        if len(seen) > 1 or seen[0][0] != local:
            raise RuntimeError(
                f"{self.layer}: compiled code knows one cut unless it is given, and this layer has met one of "
                f"{seen[0][0]} local rows before one of {local}: give rows= (rank {domain.rank} of {domain.size})"
            )
        return seen[0][1]

    def _given(self, domain: Domain) -> list[int]:
        assert self.rows is not None
        if isinstance(self.rows, int):
            return [rank * self.rows // domain.size for rank in range(domain.size + 1)]
        offsets = list(self.rows)
        if len(offsets) != domain.size + 1:
            raise ValueError(
                f"{self.layer}: expected rows to be {domain.size + 1} offsets, got {len(offsets)} "
                f"(rank {domain.rank} of {domain.size})"
            )
        return offsets

    def __deepcopy__(self, memo: dict) -> RowCuts:
        return RowCuts(self.layer, self.rows)

    def __reduce__(self) -> Any:
        # What a rank has met is not what another one has that loads it.
        return RowCuts, (self.layer, self.rows)
