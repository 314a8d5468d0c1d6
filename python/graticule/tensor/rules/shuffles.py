"""Shuffles between channels and pixels, or between channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import moves
from graticule.tensor.cut import Cut
from graticule.tensor.domain_tensor import DomainTensor
from graticule.tensor.registry import rule
from graticule.tensor.rules.reshape import reshape

aten = torch.ops.aten


def _grown(cut: Cut, factor: int) -> Cut:
    return Cut(cut.domain, cut.dim, tuple(offset * factor for offset in cut.flat().offsets))


@rule(aten.pixel_shuffle.default)
def pixel_shuffle(op: Any, x: DomainTensor, factor: int) -> Tensor:
    """Each row becomes `factor` rows of the same rank."""
    _check(op, x, factor, factor > 0 and x.dim() > 2 and x.shape[-3] % (factor * factor) == 0)
    cut, first = x._cut, x.dim() - 3
    if cut.dim < first:
        return DomainTensor(op(x._local, factor), cut)
    if cut.dim > first and cut.is_interval:
        return DomainTensor(op(x._local, factor), _grown(cut, factor))
    channels, height, width = x.shape[first:]
    leading = list(x.shape[:first])
    kept = list(range(first))
    split = _reshape(x, [*leading, channels // (factor * factor), factor, factor, height, width])
    pixels = split.permute([*kept, *(first + d for d in (0, 3, 1, 4, 2))])
    return _own(_reshape(pixels, [*leading, channels // (factor * factor), height * factor, width * factor]))


@rule(aten.pixel_unshuffle.default)
def pixel_unshuffle(op: Any, x: DomainTensor, factor: int) -> Tensor:
    """Rows move so that the `factor` rows that become one are one rank's."""
    fits = factor > 0 and x.dim() > 2 and x.shape[-1] % factor == 0 and x.shape[-2] % factor == 0
    _check(op, x, factor, fits)
    cut, first = x._cut, x.dim() - 3
    if cut.dim < first or cut.dim == first and cut.is_interval:
        return DomainTensor(_unshuffled(op, x._local, factor), cut if cut.dim < first else _grown(cut, factor * factor))
    if cut.is_interval:
        rows = tuple((2 * offset + factor) // (2 * factor) for offset in cut.flat().offsets)
        aligned = Cut(cut.domain, cut.dim, tuple(row * factor for row in rows))
        return DomainTensor(
            _unshuffled(op, moves.recut(x._local, cut, aligned), factor), Cut(cut.domain, cut.dim, rows)
        )
    channels, height, width = x.shape[first:]
    leading = list(x.shape[:first])
    kept = list(range(first))
    split = _reshape(x, [*leading, channels, height // factor, factor, width // factor, factor])
    pixels = split.permute([*kept, *(first + d for d in (0, 2, 4, 1, 3))])
    return _own(_reshape(pixels, [*leading, channels * factor * factor, height // factor, width // factor]))


@rule(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def channel_shuffle(op: Any, x: DomainTensor, groups: int) -> Tensor:
    """Rows are the same where the channels are not cut."""
    if x._cut.dim != 1:
        return DomainTensor(op(x._local, groups), x._cut)
    _check(op, x, groups, groups > 0 and x.dim() > 2 and x.shape[1] % groups == 0)
    shape = list(x.shape)
    split = _reshape(x, [shape[0], groups, shape[1] // groups, *shape[2:]])
    return _own(_reshape(split.transpose(1, 2), shape))


def _unshuffled(op: Any, local: Tensor, factor: int) -> Tensor:
    """What torch gives, but for no elements, of which it leaves the sizes as they are."""
    if local.numel():
        return op(local, factor)
    channels, height, width = local.shape[-3:]
    return local.new_empty([*local.shape[:-3], channels * factor * factor, height // factor, width // factor])


def _reshape(x: Tensor, shape: list[int]) -> Tensor:
    return reshape(x, shape) if isinstance(x, DomainTensor) else x.reshape(shape)


def _own(x: Tensor) -> Tensor:
    """A tensor with memory of its own, of what the parts above gave."""
    return DomainTensor(x._local.clone(), x._cut) if isinstance(x, DomainTensor) else x


def _check(op: Any, x: DomainTensor, factor: int, fits: bool) -> None:
    if not fits:
        raise RuntimeError(
            f"{op}: rank {x.domain.rank}: expected sizes that a factor of {factor} divides, got {tuple(x.shape)}"
        )
