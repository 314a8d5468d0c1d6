"""Sums of products over indices, of which operands may be cut along some: along which one the ranks share the work."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.rules.support import whole

Indices = Sequence[Hashable]


@dataclasses.dataclass(frozen=True)
class Contraction:
    """operands[i][indices[i]] multiplied and summed over every index that `result` lacks: mk, kn -> mn is a product."""

    indices: tuple[Indices, ...]
    result: Indices

    def sizes(self, op: Any, operands: Sequence[Tensor]) -> dict[Hashable, int]:
        """Of every index. RuntimeError where operands disagree: parts of them might not."""
        found = _sizes(self.indices, tuple(t.shape for t in operands))
        if found is None:
            shapes = ", ".join(str(list(t.shape)) for t in operands)
            rank = next(t._cut.domain.rank for t in operands if isinstance(t, DomainTensor))
            raise RuntimeError(f"{op}: rank {rank}: expected shapes that can be multiplied, got {shapes}")
        return found

    def plan(self, op: Any, operands: Sequence[Tensor]) -> tuple[Hashable, Cut] | None:
        """The index along which the ranks share the work, and its cut: where least is moved. None where none is cut."""
        found = [
            (indices[t._cut.dim], t._cut)
            for t, indices in zip(operands, self.indices, strict=True)
            if isinstance(t, DomainTensor)
        ]
        if not found:
            return None
        sizes = self.sizes(op, operands)
        if len(found) == 1:
            return found[0]
        return min(found, key=lambda choice: self._cost(*choice, operands, sizes))

    def _cost(self, index: Hashable, cut: Cut, operands: Sequence[Tensor], sizes: dict[Hashable, int]) -> float:
        """Values that a rank receives."""
        cost = 0.0
        for t, indices in zip(operands, self.indices, strict=True):
            if isinstance(t, DomainTensor):
                if index not in indices:
                    cost += t.numel()
                elif t._cut != cut.at(indices.index(index)):
                    cost += t.numel() / cut.domain.size
        if index not in self.result:
            summed = 2
            for i in self.result:
                summed *= sizes[i]
            cost += summed
        return cost

    def parts(self, operands: Sequence[Tensor], index: Hashable, cut: Cut) -> list[Tensor]:
        """What this rank works on; an operand without the index is needed whole."""
        return [
            part(t, cut.at(indices.index(index))) if index in indices else whole(t)
            for t, indices in zip(operands, self.indices, strict=True)
        ]

    def run(self, op: Any, multiply: Callable[..., Tensor], operands: Sequence[Tensor]) -> Tensor:
        """multiply(*operands): cut where the result has the index along which the ranks share, else whole."""
        plan = self.plan(op, operands)
        if plan is None:
            return multiply(*operands)
        index, cut = plan
        local = multiply(*self.parts(operands, index, cut))
        if index in self.result:
            return DomainTensor(local, cut.at(self.result.index(index)))
        return moves.reduce_sum(local, cut.domain)


@functools.lru_cache(maxsize=4096)
def _sizes(operands: tuple[Indices, ...], shapes: tuple[Sequence[int], ...]) -> dict[Hashable, int] | None:
    sizes: dict[Hashable, int] = {}
    for indices, shape in zip(operands, shapes, strict=True):
        if len(indices) != len(shape):
            return None
        for i, n in zip(indices, shape, strict=True):
            if sizes.setdefault(i, n) != n:
                return None
    return sizes


def part(t: Tensor, cut: Cut) -> Tensor:
    """This rank's part, by `cut`, of a tensor that is cut in any way or whole."""
    return moves.recut(t._local, t._cut, cut) if isinstance(t, DomainTensor) else cut.part_of(t)
