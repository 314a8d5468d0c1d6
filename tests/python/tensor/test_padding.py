"""Padding of every kind, by widths that exceed shards and reach several ranks away."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import graticule
from support.ranks import failures, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 3, 7, 6, dtype=torch.float64)
PADDINGS = [
    (1, 1, 1, 1),
    (0, 2, 3, 0),
    (0, 0, 6, 5),
    (2, 1, 0, 0),
    (-1, 2, -2, 3),
    (0, 0, 4, -5),
    (0, 0, -2, -3),
    (0,) * 4,
]


@pytest.mark.parametrize("dim", [2, 3, 0])
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_modes(mode, dim):
    def function(x):
        paddings = [padding for padding in PADDINGS if mode != "reflect" or max(padding) < 6]
        if mode == "circular":
            # Torch reads memory that it has not written where more rows wrap round than are left.
            paddings.remove((0, 0, 4, -5))
        return [F.pad(x, padding, mode=mode).sin() for padding in [*paddings, (0, 0, 6, 2)]]

    compare(function, Cut(X, dim))


def test_constants():
    def function(x):
        return [
            F.pad(x, (1, 1, 2, 2), value=3.5) * 2,
            F.pad(x, (0, 1), value=-1).sin(),
            F.pad(x, (0, 0, 12, 9, 1, 0, 0, 1)) * 1,
            F.pad(x, (0, 0, -7, 2), value=4.0) + 1,
            F.pad(x, (0, 0, -3, -4)) * 1,
            nn.ZeroPad2d(2)(x),
        ]

    compare(function, Cut(X))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_one_and_three_dimensions(mode):
    line = torch.randn(2, 3, 9, dtype=torch.float64)
    box = torch.randn(1, 2, 6, 5, 4, dtype=torch.float64)
    compare(lambda x: F.pad(x, (3, 5), mode=mode).sin(), Cut(line, 2))
    for dim in (2, 3):
        compare(lambda x: F.pad(x, (1, 0, 2, 3, 4, 1), mode=mode).sin(), Cut(box, dim), ranks=(1, 3))
    compare(lambda x: F.pad(x, (1, 0, 2, 3, 4, 1), mode=mode).sin(), Cut(box[0], 1), ranks=(3,))


def test_padding_of_what_was_padded():
    def function(x):
        y = F.pad(x, (1, 1, 0, 0), mode="circular")
        y = F.pad(y, (0, 0, 2, 2), mode="replicate")
        y = F.pad(y, (0, 0, 1, 0))
        return y[..., 1:8, 1:-1] * x

    compare(function, Cut(X))


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["constant", "reflect", "replicate", "circular"]),
    st.integers(1, 10),
    st.integers(-9, 9),
    st.integers(-9, 9),
    st.sampled_from([2, 3, 4]),
)
def test_any_width(mode, rows, before, after, ranks):
    if mode == "circular" and max(before, after) > rows + min(before, 0) + min(after, 0):
        return
    x = torch.randn(1, 1, rows, 3, device="cpu", generator=torch.Generator().manual_seed(rows), dtype=torch.float64)

    def function(x):
        return F.pad(x, (1, 0, before, after), mode=mode).sin()

    try:
        function(x)
    except (RuntimeError, ValueError):
        errors = failures(ranks, lambda domain: function(graticule.shard(x, domain)))
        assert len(errors) == ranks
        return
    compare(function, Cut(x), ranks=(ranks,))


@pytest.mark.parametrize("padding", [(0, 0, 7, 0), (6, 0, 0, 0), (0, 0, -4, -4)])
@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_errors_are_torchs_on_every_rank(padding, mode):
    if mode == "circular" and padding[0:3] != (0, 0, -4):
        padding = tuple(p + 2 if p else 0 for p in padding)
    with pytest.raises(RuntimeError) as expected:
        F.pad(X, padding, mode=mode)
    errors = failures(3, lambda domain: F.pad(graticule.shard(X, domain), padding, mode=mode))
    assert len(errors) == 3
    assert all(isinstance(error, expected.type) for error in errors.values())


def test_sends_only_the_halo():
    def body(domain):
        x = graticule.shard(X, domain)
        with graticule.report(strict=True) as report:
            F.pad(x, (1, 1, 1, 1))
        assert not report.calls
        with graticule.report(strict=True) as report:
            F.pad(x, (0, 0, 1, 1), mode="circular")
        return report.bytes

    # Two ranks of this process, which counts for all its ranks, send a row.
    assert max(run_ranks(3, body)) <= 2 * (2 * 3 * 6 * 8)


def test_a_row_that_every_rank_has():
    rows = lambda x: (x[:, :, 3], x.unbind(2)[0])  # noqa: E731
    compare(lambda x: [F.pad(row, (2, 1), mode="circular") for row in rows(x)], Cut(X), gathers=True)


@pytest.mark.parametrize("pad,value", [((1, 1), 3.0), ((), None), ((1,) * 8, None)])
def test_circular_padding_that_torch_refuses(pad, value):
    x = X[None, None] if len(pad) == 8 else X
    with pytest.raises(RuntimeError) as expected:
        F.pad(x, pad, "circular", value)
    found = failures(2, lambda domain: F.pad(graticule.shard(x, domain), pad, "circular", value))
    assert sorted(found) == [0, 1]
    assert all(isinstance(error, expected.type) for error in found.values()), found
