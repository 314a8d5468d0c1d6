"""Indexing by tensors: along cut rows, along others, by cut indices, and writes by them."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import graticule
from support.ranks import failures, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)
X = torch.randn(2, 3, 7, 5, dtype=torch.float64)
Y = torch.randn(2, 3, 7, 5, dtype=torch.float64)
index_put = torch.ops.aten.index_put.default
ROWS = torch.tensor([6, 0, 0, 3, 5, 2, -1, 1, 1])
GRID = torch.tensor([[0, 6, 3], [2, 2, 1]])


@pytest.mark.parametrize("dim", [2, 3, 0])
def test_indices(dim):
    def function(x):
        return [
            x[:, :, ROWS] * 2,
            x[:, :, GRID].sin(),
            x[:, :, GRID, GRID % 5] + 1,
            x[:, [0, 2, 1, 0]].cos(),
            x[:, [2, 0], :, [1, 4]] * 3,
            x[:, 0, ROWS[:3], 1:] * 1,
            x[:, :, torch.tensor(4)] * 2,
            x[[1], [2], [3], [4]] * 5,
            x.index_select(2, ROWS.abs()) * x[:, :, :1],
            x.index_select(1, torch.tensor([1, 1])).exp(),
            x[:, :, torch.tensor([], dtype=torch.int64)] * 1,
            x[:, :, torch.tensor([True, False, True, True, False, False, True])] * 1,
            x[:, torch.tensor([True, False, True])] * 1,
            x[torch.tensor([[True, False, True], [False, True, True]])] * 1,
            x.index_select(0, torch.tensor([1])) * 2,
        ]

    compare(function, Cut(X, dim))


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 9), st.data(), st.sampled_from([2, 3]))
def test_any_rows(rows, data, ranks):
    wanted = torch.tensor(data.draw(st.lists(st.integers(-rows, rows - 1), min_size=1, max_size=12)))
    x = torch.randn(2, rows, 3, dtype=torch.float64)
    y = torch.randn(2, len(wanted), 3, dtype=torch.float64)

    def function(x, y):
        return [x[:, wanted] * y, (x * 1).index_add(1, wanted % rows, y), index_put(x, [None, wanted], y, True)]

    compare(function, Cut(x, 1), Cut(y, 1), ranks=(ranks,))


@pytest.mark.parametrize("dim", [2, 1])
def test_writes_by_indices(dim):
    rows = torch.tensor([5, 0, 3])

    def function(x, y, w):
        z = x * 1
        z[:, :, rows] = y[:, :, :3]
        z[:, :, rows] += 1
        z[z > 1] = 0.25
        z[:, [0, 2]] = w[:, 1:]
        z[0, :, rows, 1] = w[0, 0, :3, :3]
        z.index_add_(2, rows, w[:, :, :3], alpha=2)
        z.index_fill_(2, rows[:1], 3.0)
        return [
            z,
            x.index_copy(2, rows, y[:, :, :3]),
            x.index_add(1, torch.tensor([0, 0]), y[:, :2]),
            index_put(x, [None, None, rows], w[:, :, :3], True),
            index_put(x, [None, None, torch.tensor([0, 0, 1]), rows % 4], y[:, :, 0, :3], True),
            x.index_fill(1, torch.tensor([1]), -1),
            x.masked_fill(y > 0, 2.0),
            torch.where(x > y, x, w),
        ]

    compare(function, Cut(X, dim), Cut(Y, dim), torch.randn_like(X))


@pytest.mark.parametrize("dim", [2, 0])
def test_gathers_and_scatters(dim):
    wanted = torch.randint(0, 5, X.shape)

    def function(x, y, n):
        return [
            x.gather(3, n) * 2,
            x.gather(3, wanted).sin(),
            x.scatter(3, n, y),
            (x * 1).scatter_(3, n, 2.5),
            x.scatter_add(3, n, y),
            x.gather(1, n % 3) * x,
            x.take_along_dim(n, 3),
        ]

    compare(function, Cut(X, dim), Cut(Y, dim), Cut(wanted, dim))


def test_along_the_cut_dimension_by_a_gather():
    wanted = torch.randint(0, 7, X.shape)

    def function(x, y):
        return [x.gather(2, wanted) * 2, x.scatter_add(2, wanted, y), x.masked_select(y > 0), x[y > 0] * 2]

    compare(function, Cut(X), Cut(Y), gathers=True)


@pytest.mark.parametrize("dim", [1, 0])
def test_cut_indices_into_what_every_rank_has(dim):
    n = torch.randint(0, 6, (2, 7))

    def function(n, weight):
        return [F.embedding(n, weight) * 2, weight[n] + 1, F.embedding(n, weight, padding_idx=2), weight[:, n % 4]]

    compare(function, Cut(n, dim), torch.randn(6, 4, dtype=torch.float64))


@pytest.mark.parametrize("function", [lambda x: x[:, :, [7]], lambda x: x.index_select(2, torch.tensor([-1]))])
def test_errors_on_every_rank(function):
    errors = failures(3, lambda domain: function(graticule.shard(X, domain)))
    assert len(errors) == 3
    assert all(isinstance(error, IndexError) for error in errors.values())


@pytest.mark.parametrize("dim", [0, 1])
def test_one_hot(dim):
    classes = torch.tensor([[0, 1, 2, 1], [2, 0, 1, 5], [1, 1, 3, 0]])
    compare(lambda y: F.one_hot(y, 7), Cut(classes, dim), gradients=False)
    compare(lambda y: F.one_hot(y), Cut(classes, dim), gradients=False)
    for wrong, options in ((classes, 3), (classes - 1, 9), (classes - 1, -1)):
        found = failures(2, lambda domain, y=wrong, n=options: F.one_hot(graticule.shard(y, domain, dim=dim), n))
        assert len(found) == 2
        assert all("Class values must be" in str(error) for error in found.values())


def test_a_row_by_keywords_without_autograd():
    def body(domain):
        with torch.inference_mode():
            x = graticule.shard(X, domain)
            return torch.select(input=x, dim=2, index=3) * 1, torch.unbind(input=x, dim=2)[3] * 1

    for rows in run_ranks(2, body):
        assert all(torch.equal(row, X[:, :, 3]) for row in rows)


def test_cut_indices_of_plain_tensors():
    table, values = torch.randn(6, 4, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)

    def function(table, index, values):
        return [table[index] * 2, index_put(table, [index], values, True), index_put(table, [index], values[0])]

    compare(function, table, Cut(ROWS % 6, 0), values, ranks=(2, 3))
