"""Slices, single rows, splits, and writes into them."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graticule
from graticule import DomainTensor
from support.ranks import failures, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 3, 7, 5, dtype=torch.float64)
Y = torch.randn(2, 3, 7, 5, dtype=torch.float64)


@pytest.mark.parametrize("dim", [2, 1, 3])
def test_slices(dim):
    def function(x):
        return [
            x[:, :, 2:5] * 2,
            x[..., 1:, 1:-1] + 1,
            x[:, 1:, ::2] * x[:, :1, ::2],
            x[:, :, 1::3].sin(),
            x[:, :, -3:-1].cos(),
            x[:, :, 5:2] * 1,
            x[:, :, 100:] * 1,
            x.narrow(2, 3, 2).exp(),
            x[:, :, 1:][:, :, ::2][:, :, 1:] * 3,
        ]

    compare(function, Cut(X, dim))


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 12), st.integers(-14, 14), st.integers(-14, 14), st.integers(1, 5), st.sampled_from([2, 3]))
def test_any_slice(rows, start, end, step, ranks):
    x = torch.arange(2.0 * rows, dtype=torch.float64).view(2, rows)
    compare(lambda x: x[:, start:end:step].sin(), Cut(x, 1), ranks=(ranks,))


@pytest.mark.parametrize("dim", [2, 0])
def test_single_rows(dim):
    def function(x, w):
        last = x.select(2, -1)
        return [x[:, :, 3] * 2, x[0, 1] + x[1, :, 0:1], x[0, 0, 3, 4] * x, last * w, x[:, :, 2].unsqueeze(2) + x]

    compare(function, Cut(X, dim), torch.randn(2, 3, 5, dtype=torch.float64))


def test_splits():
    def function(x):
        a, b, c = x.split([2, 4, 1], 2)
        parts = x.chunk(3, 2)
        rest = x.split(3, -2)
        channels = x.unbind(1)
        p, q = x.chunk(2, 3)
        return [a * 2, b.sin(), parts[0] * parts[1], rest[2] * 1, channels[0] * channels[2], p[..., :2] + q, c * a]

    compare(function, Cut(X))


def test_all_rows_come_by_a_gather():
    compare(lambda x: [row * (i + 1) for i, row in enumerate(x.unbind(2))], Cut(X), gathers=True)


def test_rows_written_out_of_place():
    def function(x, y, w):
        return [
            torch.slice_scatter(x, y[:, :, 1:4], 2, 3, 6),
            torch.slice_scatter(w, y[:, :, ::2], 2, 0, 7, 2),
            torch.select_scatter(x, y[:, :, 0], 2, 4),
            torch.select_scatter(x, y[:, 1], 1, 2),
            torch.select_scatter(w, y[:, 1], 1, 2),
            torch.slice_scatter(x, w[:, :1], 1, 1, 2),
        ]

    compare(function, Cut(X), Cut(Y, 2), torch.randn_like(X))


@pytest.mark.parametrize("dim", [2, 1])
def test_writes_into_slices(dim):
    def function(x, y, w, v):
        z = x * 1
        z[..., 1:4, :] = y[..., 3:6, :]
        z[:, 0] = w[:, 1]
        z[:, :, 5:] *= 2
        z[:, :, ::3] += y[:, :, ::3]
        z[:, :, 6] = v
        z[0, 1, 2, 3] = 5
        z[0, :, 3, 1:] = y[1, :, 3, 1:]
        z[:, 1, -1] = v[:, 0]
        z[1, ..., 0] = 0.5
        z[:, :, None, 2] = v[:, :, None]
        part = z[:, :, 2:]
        part[:, :, 1:].mul_(3)
        z.mul_(y)
        return [z, part * 1]

    compare(
        function, Cut(X, dim), Cut(Y, dim), torch.randn_like(X), torch.randn(2, 3, 5, dtype=torch.float64), gathers=True
    )


def test_writes_without_gradients_reach_the_tensor():
    def body(domain):
        x = graticule.shard(X, domain)
        with torch.no_grad():
            x[:, :, 2:6].fill_(1)
            x[0, 0, 6, 4] = 7
            x.chunk(2, 2)[1][:, 1:].zero_()
        return x.gather()

    expected = X.clone()
    expected[:, :, 2:6] = 1
    expected[0, 0, 6, 4] = 7
    expected[:, 1:, 4:] = 0
    assert all(torch.equal(result, expected) for result in run_ranks(3, body))


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x[0, 0, 3, 4].sin_(),
        lambda x: x[:, :, 3].neg_(),
        lambda x: x.select(2, 1)[0].zero_(),
        lambda x: torch.add(x[:, :, 1], 1, out=x[:, :, 2]),
        lambda x: x.unbind(2)[0].add_(x[:, :, 1]),
        lambda x: x[:, :, 3].view(-1)[0:1].add_(1),
        lambda x: x.select(2, 1).__setitem__(0, 1.0),
        lambda x: x.unbind(2)[0].__iadd__(1),
    ],
)
@pytest.mark.parametrize("gradients", [False, True])
def test_a_write_into_a_copied_row_is_refused(write, gradients):
    def body(domain):
        x = graticule.shard(X, domain)
        x = x.requires_grad_() * 1 if gradients else x
        write(x)

    errors = failures(2, body)
    assert len(errors) == 2
    assert all("would be lost" in str(error) or "out=" in str(error) for error in errors.values())


def test_a_copied_row_that_has_grown_old_is_refused():
    def body(domain):
        x = graticule.shard(X, domain)
        row = x[:, :, 3]
        assert row.sum().item() == pytest.approx(X[:, :, 3].sum().item())
        x[:, :, :4] = 0
        return row + 1

    errors = failures(2, body)
    assert len(errors) == 2
    assert all("written into" in str(error) for error in errors.values())


def test_rows_are_plain_tensors():
    def body(domain):
        row = graticule.shard(X, domain)[:, :, 3]
        assert not isinstance(row, DomainTensor) and type(row * 1) is torch.Tensor
        assert repr(row * 1) == repr(X[:, :, 3] * 1)
        with pytest.raises(IndexError):
            graticule.shard(X, domain).select(2, 7)
        return row.clone()

    assert all(torch.equal(row, X[:, :, 3]) for row in run_ranks(2, body))


def test_slices_share_memory_and_send_nothing():
    def body(domain):
        x = graticule.shard(X, domain)
        with graticule.report() as report:
            part = x[:, :, 1:6:2]
        assert not report.calls
        assert (
            part.local.numel() == 0 or part.local.untyped_storage().data_ptr() == x.local.untyped_storage().data_ptr()
        )
        return part.offsets

    assert run_ranks(2, body) == [(0, 1, 3)] * 2


@pytest.mark.parametrize("dim", [3, 2, 1])
def test_scatter_along_a_dimension_merged_with_the_cut_one(dim):
    def function(x, y):
        return [
            torch.slice_scatter(x.flatten(1), y.flatten(1)[:, 3:50], 1, 7, 54),
            torch.select_scatter(x.flatten(1), y.flatten(1)[:, 0], 1, 77),
        ]

    compare(function, Cut(X, dim), Cut(Y, dim), gathers=True)
