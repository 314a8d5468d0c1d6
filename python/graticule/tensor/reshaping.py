"""Where the cut of a tensor goes when its dimensions are merged and split: on sizes and offsets alone.

In row-major order a rank owns elements [edges[r], edges[r + 1]) of every period, of which there are `outer`. A result
dimension can be the cut one where it divides the elements so: by whole periods before it, by multiples of the sizes
after it within a period.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator

import torch

from graticule.tensor.cut import Cut


@dataclasses.dataclass(frozen=True)
class Step:
    """Rows that move before a reshape: of the rank's part, in shape `local`, from the cut `old` to the cut `new`."""

    local: tuple[int, ...]
    old: Cut
    new: Cut


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a rank's part is reshaped.

    `shape` is the whole result's, `local` its part's, `cut` its cut; `move` what must move first. `strides` are those
    of the whole result where the whole tensor could be viewed so, or None. A result without dimensions has no cut.
    """

    shape: tuple[int, ...]
    local: tuple[int, ...]
    cut: Cut | None
    move: Step | None
    strides: tuple[int, ...] | None


@functools.lru_cache(maxsize=4096)
def plan_reshape(sizes: tuple[int, ...], strides: tuple[int, ...], cut: Cut, shape: tuple[int, ...]) -> Plan:
    """Plans a reshape to `shape`, which may have a -1, of a tensor of these sizes and strides.

    RuntimeError, as torch says it, where the numbers of elements differ.
    """
    whole = torch.empty_strided(sizes, strides, device="meta")
    shape = tuple(whole.reshape(shape).shape)
    viewed = _viewed_strides(whole, shape)
    if not shape:
        return Plan(shape, (), None, None, viewed)
    new, move = _no_elements(sizes, cut, shape) if 0 in shape else _follow(sizes, cut, shape)
    local = tuple(new.own_size if dim == new.dim else size for dim, size in enumerate(shape))
    return Plan(shape, local, new, move, viewed)


def _viewed_strides(whole: torch.Tensor, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return whole.view(shape).stride()
    except RuntimeError:
        return None


def _no_elements(sizes: tuple[int, ...], cut: Cut, shape: tuple[int, ...]) -> tuple[Cut, None]:
    """The same dimension where the result has one of its size, counted from the first or the last."""
    for dim in (cut.dim, len(shape) - len(sizes) + cut.dim):
        if 0 <= dim < len(shape) and shape[dim] == cut.size:
            return cut.at(dim), None
    dim = max(range(len(shape)), key=lambda d: shape[d])
    return Cut.balanced(cut.domain, dim, shape[dim]), None


@dataclasses.dataclass(frozen=True)
class _Place:
    """A result dimension that can be cut: into `outer` parts, each of rows of `row` elements."""

    dim: int
    size: int
    outer: int
    row: int

    def cut(self, old: Cut, edges: tuple[int, ...]) -> Cut:
        offsets = tuple(edge // self.row for edge in edges)
        if offsets[-1] == 1:
            # The one row of a period is one rank's, and so is all.
            return Cut(old.domain, self.dim, tuple(offset * self.outer for offset in offsets))
        return Cut(old.domain, self.dim, offsets, self.outer)


def _places(shape: tuple[int, ...], outer: int) -> Iterator[_Place]:
    """The dimensions before which there are whole periods, and which consist of whole rows of a period."""
    before, row = 1, math.prod(shape)
    for dim, size in enumerate(shape):
        row //= size
        if outer % before == 0 and size % (outer // before) == 0:
            yield _Place(dim, size, outer // before, row)
        before *= size


def _has_one_owner(edges: tuple[int, ...]) -> bool:
    return sum(begin < end for begin, end in zip(edges, edges[1:], strict=False)) == 1


def _best(places: list[_Place]) -> _Place:
    """Best one interval; then the longest of those that differ by sizes of 1."""
    return min(places, key=lambda place: (place.outer, -place.size))


def _follow(sizes: tuple[int, ...], cut: Cut, shape: tuple[int, ...]) -> tuple[Cut, Step | None]:
    outer = math.prod(sizes[: cut.dim]) * cut.outer
    unit = math.prod(sizes[cut.dim + 1 :]) * cut.inner
    edges = tuple(offset * unit for offset in cut.offsets)
    places = list(_places(shape, outer))
    exact = [place for place in places if all(edge % place.row == 0 for edge in edges)]
    if exact:
        return _best(exact).cut(cut, edges), None
    if _has_one_owner(edges):
        dim = max(range(len(shape)), key=lambda d: shape[d])
        return Cut(cut.domain, dim, tuple(shape[dim] * (edge > 0) for edge in edges)), None
    if places:
        place = _best(places)
        rounded = tuple((2 * edge + place.row) // (2 * place.row) * place.row for edge in edges)
        return place.cut(cut, rounded), _within_periods(sizes, cut, outer, edges, rounded)
    return _across_periods(sizes, cut, shape, outer, edges)


def _within_periods(
    sizes: tuple[int, ...], cut: Cut, outer: int, edges: tuple[int, ...], rounded: tuple[int, ...]
) -> Step:
    """Rows go to the ranks beside, by dimensions as they are where the new edges lie between the cut one's rows."""
    unit = edges[-1] // cut.rows
    if cut.outer == 1 and cut.inner == 1 and all(edge % unit == 0 for edge in rounded):
        offsets = tuple(edge // unit for edge in rounded)
        local = tuple(cut.own if dim == cut.dim else size for dim, size in enumerate(sizes))
        return Step(local, cut, Cut(cut.domain, cut.dim, offsets))
    old, new = Cut(cut.domain, 1, edges), Cut(cut.domain, 1, rounded)
    return Step((outer, old.own), old, new)


def _across_periods(
    sizes: tuple[int, ...], cut: Cut, shape: tuple[int, ...], outer: int, edges: tuple[int, ...]
) -> tuple[Cut, Step]:
    """A result dimension that no period fits is cut as one interval, of the same share of the elements."""
    first, same = _common_beginning(sizes[: cut.dim], shape)
    while shape[first] == 1:
        first += 1
    row = math.prod(shape[first + 1 :])
    periods = outer // same
    shares = tuple((2 * edge * periods + row) // (2 * row) for edge in edges)
    unit = math.gcd(row, *edges)
    old = Cut(cut.domain, 1, tuple(edge // unit for edge in edges), periods)
    new = Cut(cut.domain, 1, tuple(share * row // unit for share in shares))
    return Cut(cut.domain, first, shares), Step((same, old.own_size, unit), old, new)


def _common_beginning(sizes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int]:
    """How many result dimensions, and what product of sizes, both tensors begin with."""
    products = {1}
    product = 1
    for size in sizes:
        product *= size
        products.add(product)
    best, product = (0, 1), 1
    for count, size in enumerate(shape, 1):
        product *= size
        if product in products:
            best = (count, product)
    return best
