"""Chains of views, writes into them and pointwise work, drawn at random, against the same of the uncut tensor."""

import math

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.ranks import RanksFailedError
from tensor.comparison import Cut, compare


def factors_of(number):
    return [d for d in range(1, number + 1) if number % d == 0]


def draw_shape(data, count):
    """Sizes with a product of `count`."""
    shape = []
    while count > 1 and len(shape) < 4:
        shape.append(data.draw(st.sampled_from(factors_of(count))))
        count //= shape[-1]
    return [*shape, count]


def draw_step(data, shape):
    """A function of a tensor of this shape."""
    ndim = len(shape)
    kinds = ["reshape", "permute", "unsqueeze", "squeeze", "write", "scale"]
    kinds += ["unfold"] * (ndim > 0 and min(shape) > 0) + ["expand"] * (math.prod(shape) <= 100) + ["slice"]
    kind = data.draw(st.sampled_from(kinds))
    dim = data.draw(st.integers(0, ndim - 1))
    if kind == "reshape":
        target = draw_shape(data, math.prod(shape))
        return lambda x: x.reshape(target)
    if kind == "permute":
        order = data.draw(st.permutations(range(ndim)))
        return lambda x: x.permute(order)
    if kind == "unsqueeze":
        return lambda x: x.unsqueeze(dim)
    if kind == "squeeze":
        return lambda x: x.squeeze(dim)
    if kind == "unfold":
        size, step = data.draw(st.integers(1, shape[dim])), data.draw(st.integers(1, 3))
        return lambda x: x.unfold(dim, size, step) * 1
    if kind == "expand":
        return lambda x: x.unsqueeze(dim).expand(*shape[:dim], 2, *shape[dim:]) * 1
    if kind == "slice":
        begin = data.draw(st.integers(0, shape[dim] - 1))
        return lambda x: x.narrow(dim, begin, shape[dim] - begin)
    # An addend that differs from place to place: a mistaken order is seen.
    addend = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).reshape(shape)
    if kind == "scale":
        return lambda x: x * addend
    return lambda x: x.add_(addend).mul_(2)


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_chain(data):
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    whole = torch.randn(shape, dtype=torch.float64, device="cpu", generator=torch.Generator().manual_seed(1))
    dim = data.draw(st.integers(0, len(shape) - 1))
    size = data.draw(st.integers(1, 4))
    inner = sorted(data.draw(st.lists(st.integers(0, shape[dim]), min_size=size - 1, max_size=size - 1)))
    steps = []
    y = whole
    for _ in range(data.draw(st.integers(1, 6))):
        if y.dim() == 0 or y.numel() > 500:
            break
        steps.append(draw_step(data, list(y.shape)))
        y = steps[-1](y.clone())

    def function(x):
        results = [x * 1]
        for step in steps:
            results.append(step(results[-1]))
        return [result * 1 for result in results]

    try:
        compare(function, Cut(whole, dim), ranks=(size,), cuts=(lambda rows, ranks: [0, *inner, rows],))
    except RanksFailedError as failure:
        # A write that cannot be is refused on every rank; nothing else may go wrong.
        if len(failure.errors) < size or any("would be lost" not in str(error) for error in failure.errors.values()):
            raise
