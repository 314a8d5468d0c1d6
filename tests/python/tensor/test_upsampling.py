"""Interpolation of cut tensors, by size and by factor, in every mode."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from support.device import DEVICE
from tensor.comparison import Cut, compare, uneven

# There kernels decide some cases by the sizes of all dimensions: antialiasing, factors that keep the number of rows.
ON_GPU = DEVICE != "cpu"


def values(*shape):
    return torch.randn(shape, dtype=torch.float64, device="cpu", generator=torch.Generator().manual_seed(sum(shape)))


MODES = {
    1: [("nearest", None, False), ("nearest-exact", None, False), ("linear", False, False), ("linear", True, False)],
    2: [("nearest", None, False), ("nearest-exact", None, False), ("area", None, False)]
    + [(m, align, anti) for m in ("bilinear", "bicubic") for align in (False, True) for anti in (False, True)],
    3: [("nearest", None, False), ("nearest-exact", None, False), ("trilinear", False, False)]
    + [("trilinear", True, False), ("area", None, False)],
}
FACTORS = (0.3, 0.5, 1.0, 1.03, 1.5, 2.0, 3.7)


@pytest.mark.parametrize("mode", MODES[2], ids=str)
@pytest.mark.parametrize("dim", [2, 3])
def test_of_two_dimensions(mode, dim):
    name, align, antialias = mode
    x = values(1, 2, 9, 6).transpose(2, dim)

    def function(x):
        results = []
        for rows, columns in [(9, 6), (4, 6), (9, 3), (18, 12), (20, 2), (1, 5)]:
            size = (rows, columns) if dim == 2 else (columns, rows)
            if not (antialias and size[1] == 1):
                results.append(F.interpolate(x, size, None, name, align, None, antialias))
        for factor in FACTORS:
            factors = (factor, 1.5) if dim == 2 else (1.5, factor)
            results += [
                F.interpolate(x, None, factors, name, align, recompute, antialias)
                for recompute in (False, True)
                if name != "area" or not recompute
            ]
        return results

    compare(function, Cut(x, dim), ranks=(3,) if dim == 2 else (2,), gathers=ON_GPU)


@pytest.mark.parametrize("n", [1, 3])
def test_of_one_and_three_dimensions(n):
    sizes = (7, 6, 5)[:n]
    for dim in range(n):

        def function(x, dim=dim):
            results = []
            for (name, align, antialias), rows in itertools.product(MODES[n], (1, 4, 12)):
                size = [3, 8, 5][:n]
                size[dim] = rows
                results.append(F.interpolate(x, size, None, name, align, None, antialias))
            for (name, align, antialias), factor in itertools.product(
                MODES[n], FACTORS if n == 1 else (0.5, 1.03, 2.0)
            ):
                results.append(F.interpolate(x, None, factor, name, align, None, antialias))
            return results

        compare(function, Cut(values(1, 2, *sizes), dim + 2), ranks=(3,), gathers=ON_GPU)


@pytest.mark.parametrize("dim", [0, 1])
def test_across_the_cut(dim):
    def function(x):
        return [F.interpolate(x, (7, 9), None, name, align, None, anti) for name, align, anti in MODES[2]]

    compare(function, Cut(values(3, 4, 5, 6), dim), ranks=(2, 4))


def test_modules_and_other_types():
    x = values(2, 3, 17, 8)
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):

        def function(x):
            return (
                nn.Upsample(scale_factor=2, mode="bilinear")(x),
                nn.UpsamplingNearest2d(size=(9, 9))(x),
                F.interpolate(x, scale_factor=0.5, mode="bicubic"),
            )

        compare(function, Cut(x.to(dtype)), bound=bound, ranks=(1, 3))
        last = x.to(dtype).contiguous(memory_format=torch.channels_last)
        compare(function, Cut(last), bound=bound, ranks=(3,))


def test_a_last_dimension_of_one_is_as_serial():
    compare(
        lambda x: F.interpolate(x, (5, 1), mode="bilinear", antialias=True),
        Cut(values(1, 2, 9, 6)),
        gathers=True,
        ranks=(2,),
    )


@pytest.mark.skipif(ON_GPU, reason="torch has no such kernel for a GPU")
def test_whole_numbers_are_as_serial():
    x = (values(1, 2, 9, 6) * 40 + 128).clamp(0, 255).to(torch.uint8)

    def function(x):
        return [F.interpolate(x, (13, 4), mode=m, antialias=a) for m in ("bilinear", "bicubic") for a in (False, True)]

    compare(function, Cut(x), gathers=True, gradients=False, ranks=(1, 2))


def test_second_derivatives():
    for name, align, antialias in MODES[2]:

        def function(x, name=name, align=align, antialias=antialias):
            y = F.interpolate(x, (13, 4), None, name, align, None, antialias)
            return torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)

        compare(function, Cut(values(1, 2, 9, 6)), gathers=True, ranks=(3,))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_any_options(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    name, align, antialias = data.draw(st.sampled_from(MODES[2]))
    rows, columns = draw(1, 20), draw(2, 5)
    size, factors = (draw(1, 25), draw(2, 6)), None
    if data.draw(st.booleans()):
        size, factors = None, (draw(1, 40) / 10, draw(4, 20) / 8)
        if rows * factors[0] < 1 or columns * factors[1] < 2:
            return
    x = Cut(values(1, 2, rows, columns))
    function = lambda x: F.interpolate(x, size, factors, name, align, None, antialias)  # noqa: E731
    compare(function, x, ranks=(draw(2, 4),), gathers=ON_GPU)
    compare(function, x, ranks=(draw(2, 4),), cuts=(uneven,), gathers=ON_GPU)
