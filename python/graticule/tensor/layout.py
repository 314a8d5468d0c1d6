"""The order in which a tensor's dimensions lie in memory."""

from __future__ import annotations

import functools

import torch


@functools.lru_cache(maxsize=4096)
def strides_in_order(strides_of: tuple[int, ...], sizes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Dense strides for `shape`, its dimensions in the order in which those of `sizes` lie in memory; 0 stays 0."""
    if 0 in sizes and 0 in strides_of:
        # Of an empty tensor: they tell no order.
        strides_of, sizes = tuple(torch.empty(shape, device="meta").stride()), shape
    order = sorted(range(len(shape)), key=lambda d: (strides_of[d], sizes[d] if strides_of[d] else 0, -d))
    strides = [0] * len(shape)
    step = 1
    for d in order:
        if strides_of[d] == 0 and sizes[d] > 1:
            continue
        strides[d] = step
        step *= max(shape[d], 1)
    return tuple(strides)
