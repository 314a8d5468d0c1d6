"""torch.nn.functional.unfold, fold and grid_sample of cut tensors."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tensor.comparison import Cut, compare, uneven


def values(*shape):
    return torch.randn(shape, dtype=torch.float64, device="cpu", generator=torch.Generator().manual_seed(sum(shape)))


def options():
    """Kernel, stride, padding, dilation."""
    for k, s, p, d in itertools.product((1, 2, 3), (1, 2, 4), (0, 2), (1, 2)):
        if d * (k - 1) + 1 <= 9 + 2 * p:
            yield k, s, p, d


@pytest.mark.parametrize("dim", [2, 3])
def test_unfold(dim):
    def pair(a, b):
        return (a, b) if dim == 2 else (b, a)

    def function(x):
        return [F.unfold(x, pair(k, 2), pair(d, 1), pair(p, 1), pair(s, 1)) for k, s, p, d in options()]

    compare(function, Cut(values(2, 3, 9, 4).transpose(2, dim), dim))


@pytest.mark.parametrize("dim", [2, 3])
def test_fold_of_what_was_unfolded(dim):
    def pair(a, b):
        return (a, b) if dim == 2 else (b, a)

    def function(x):
        results = []
        for k, s, p, d in options():
            rest = (pair(d, 1), pair(p, 1), pair(s, 1))
            y = F.unfold(x, pair(k, 2), *rest).sin()
            results.append(F.fold(y, x.shape[2:], pair(k, 2), *rest))
        return results

    compare(function, Cut(values(2, 3, 9, 4).transpose(2, dim), dim))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_fold_of_any_cut(dim):
    compare(lambda x: F.fold(x, (9, 5), (3, 2), 1, (1, 0), (2, 1)), Cut(values(3, 12, 20), dim))


@pytest.mark.parametrize("dim", [0, 1])
def test_unfold_across_the_cut(dim):
    compare(lambda x: F.unfold(x, 3, padding=1), Cut(values(3, 2, 6, 5), dim), gathers=dim == 1)


def test_unbatched():
    compare(lambda x: F.fold(F.unfold(x, 3, padding=1), (9, 4), 3, padding=1), Cut(values(3, 9, 4)))


def test_of_merged_dimensions():
    w = values(3, 3, 4)

    def function(x, w):
        y = x.flatten(2)
        return (
            F.conv1d(y, w, stride=2),
            F.max_pool1d(y, 5, 2, 1, return_indices=True),
            F.adaptive_max_pool1d(y, 7),
            F.adaptive_avg_pool1d(y, 7),
            F.interpolate(y, 31, mode="linear"),
            F.unfold(y.unsqueeze(2), (1, 3)),
        )

    for dim in (0, 1, 2, 3):
        compare(function, Cut(values(2, 3, 5, 4), dim), w, gathers=dim == 1)


def test_second_derivatives():
    def function(x):
        y = F.fold(F.unfold(x, 3, padding=1), (9, 4), 3, padding=1)
        return torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)

    compare(function, Cut(values(2, 3, 9, 4)), gathers=True, ranks=(3,))


@pytest.mark.parametrize("dim", [0, 1, 2, 3, None])
def test_grid_sample(dim):
    x, grid = values(2, 3, 9, 4), torch.rand(2, 7, 5, 2, dtype=torch.float64) * 2.2 - 1.1
    options = [("bilinear", "zeros", False), ("nearest", "border", True), ("bicubic", "reflection", False)]

    def function(x, grid):
        return [F.grid_sample(x, grid, *rest) for rest in options]

    given = x if dim is None else Cut(x, dim)
    for place in (grid, Cut(grid, 0), Cut(grid, 1), Cut(grid, 2)):
        if isinstance(given, Cut) or isinstance(place, Cut):
            compare(function, given, place, gathers=True, ranks=(1, 3))


def test_grid_sample_of_three_dimensions():
    grid = torch.rand(1, 4, 5, 2, 3, dtype=torch.float64) * 2.2 - 1.1
    compare(
        lambda x, grid: F.grid_sample(x, grid, align_corners=True),
        Cut(values(1, 2, 6, 4, 3), 3),
        Cut(grid, 1),
        gathers=True,
        ranks=(2,),
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.data())
def test_any_options(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    rows, k, s, p, d = draw(1, 20), draw(1, 5), draw(1, 6), draw(0, 4), draw(1, 3)
    if rows + 2 * p < d * (k - 1) + 1:
        return

    def function(x):
        y = F.unfold(x, (k, 1), (d, 1), (p, 0), (s, 1))
        return y, F.fold(y, x.shape[2:], (k, 1), (d, 1), (p, 0), (s, 1))

    x = values(1, 2, rows, 2)
    compare(function, Cut(x), ranks=(draw(2, 4),))
    compare(function, Cut(x), ranks=(draw(2, 4),), cuts=(uneven,))
