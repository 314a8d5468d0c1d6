"""Joining, repeating and rearranging rows."""

import pytest
import torch

import graticule
from support.ranks import failures, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 3, 7, 5, dtype=torch.float64)
Y = torch.randn(2, 3, 4, 5, dtype=torch.float64)
Z = torch.randn(2, 3, 7, 5, dtype=torch.float64)


def test_along_the_cut_dimension():
    def function(x, y, w):
        return [
            torch.cat([x, y], 2) * 2,
            torch.cat([y, x, y * 2], -2).sin(),
            torch.cat([x[:, :, -2:], x, x[:, :, :1]], 2).cos(),
            torch.cat([w, x], 2),
            torch.cat([x[:, :, :3], w, x[:, :, 3:]], 2) * 1,
            torch.cat([x], 2) * 1,
            torch.cat([x[:, :, 4:4], y], 2).exp(),
            torch.cat(x.split([1, 5, 1], 2), 2).exp(),
            torch.cat([x[:, :, 3:], x[:, :, :3]], 2) * x,
        ]

    compare(function, Cut(X), Cut(Y), torch.randn(2, 3, 2, 5, dtype=torch.float64))


def test_along_others():
    def function(x, z, w):
        return [
            torch.cat([x, z], 1) * 2,
            torch.cat([w, x, z], 3).sin(),
            torch.cat([x, w], 0) * 1,
            torch.cat([x, torch.zeros(0, dtype=torch.float64)], 1) + 1,
            torch.stack([x, z, w]) * 3,
            torch.stack([x, w], -1) + 1,
            torch.stack([z, x], 2).sin(),
            torch.hstack([x, z]) * torch.hstack([z, w]),
        ]

    for dim in (2, 3):
        compare(function, Cut(X, 2), Cut(Z, dim), torch.randn_like(X))


def test_type_is_that_of_all():
    compare(lambda x, n: torch.cat([n, x], 1) * 1, Cut(X), Cut(torch.ones(2, 1, 7, 5, dtype=torch.int64)))
    compare(lambda n, m: torch.cat([n, m], 2), Cut(torch.ones(2, 1, 7, 5, dtype=torch.int64)), torch.ones(2, 1, 2, 5))


def test_sends_only_what_wraps_round():
    def body(domain):
        x = graticule.shard(X, domain)
        with graticule.report(strict=True) as report:
            y = torch.cat([x[:, :, -1:], x, x[:, :, :1]], 2)
        # Two ranks of this process, which counts for all its ranks, send a row.
        assert report.bytes <= 2 * (2 * 3 * 5 * 8)
        return y.offsets

    assert run_ranks(3, body) == [(0, 3, 5, 9)] * 3


@pytest.mark.parametrize("dim", [2, 3, 0])
def test_rearranged(dim):
    def function(x):
        return [
            x.roll(2, 2) * 1,
            x.roll((-3, 9, 1), (2, 3, 2)).sin(),
            torch.roll(x, 1, 1) + 1,
            x.roll((7, 0), (2, 3)) + x,
            x.flip(2).exp(),
            x.flip((-1, 2, 0)) * x,
            x.flip(1).cos(),
            torch.fliplr(x),
        ]

    compare(function, Cut(X, dim))


def test_roll_of_all_values():
    for dim in range(X.dim()):
        for shift in (0, 4, -7, 3 * X.numel() + 1):
            compare(lambda x, shift=shift: x.roll(shift) * x, Cut(X, dim))


@pytest.mark.parametrize("dim", [2, 1])
def test_repeated(dim):
    def function(x):
        return [
            x.repeat(1, 2, 1, 1) * 2,
            x.repeat(2, 1, 1, 3, 1).sin(),
            x.repeat(1, 1, 0, 1) * 1,
            x.tile(2, 2),
            x.repeat_interleave(2, 1).cos(),
        ]

    compare(function, Cut(X, dim), gathers=dim == 1)


@pytest.mark.parametrize("dim", [2, 3, 0])
def test_triangles(dim):
    def function(x):
        y = x * 1
        return [x.tril(), x.triu(1), x.tril(-2) * x.triu(-3), torch.triu(x, 20) + 1, y.triu_(-1)]

    compare(function, Cut(X, dim))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cat([x, x[:, :1]], 2),
        lambda x: torch.stack([x, x[:, :, 1:]]),
        lambda x: torch.cat([x, x], 4),
        lambda x: x.roll((1, 2), 2),
        lambda x: x.repeat(2),
        lambda x: x.split([3, 3], 2),
    ],
)
def test_errors_are_torchs_on_every_rank(function):
    with pytest.raises((RuntimeError, IndexError)) as expected:
        function(X)
    errors = failures(2, lambda domain: function(graticule.shard(X, domain)))
    assert len(errors) == 2
    for error in errors.values():
        assert isinstance(error, (RuntimeError, IndexError)) and type(error) is expected.type
