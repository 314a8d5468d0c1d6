"""In-place calls on what an index takes from a DomainTensor, where that is a copy: rows of all ranks, moved rows."""

import copy

import pytest
import torch

import graticule
from support.ranks import failures, run_ranks
from tensor.comparison import Cut, compare

torch.manual_seed(0)


def values(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype)


def add_one(x):
    x[..., -1, :] += 1


def add_to_one_row(x, other):
    x[:, 3] += other[:, 3]


def all_operators(x):
    x[:, 0] += 2
    x[:, 1] -= 2
    x[:, -1] *= 3
    x[:, 2] /= 3
    x[:, 2] **= 2
    x[:, 4] %= 0.7


def methods(x):
    x[:, 0].add_(2, alpha=3)
    x[:, 1].mul_(x[:, 2].clone())
    x[:, 2].clamp_(min=0)
    x[:, 3].masked_fill_(x[:, 3] > 0, 0.5)
    x[:, 4].addcmul_(x[:, 5].clone(), x[:, 6].clone(), value=2)
    x[:, 5].zero_()
    x[:, -1].fill_(0.25)
    x[:, -2].copy_(x[:, 0].clone())
    torch.Tensor.add_(x[:, -3], 1)


def moved_rows(x):
    x[:, ::3] += 1
    x[:, 1:5] *= 2
    x[:, -2:] -= x[:, :2]
    x[:, 2:3] += 1
    x[:, 4:4] += 1


def by_lists(x):
    # A list of indices makes a copy in PyTorch too, which `+=` puts back.
    x[:, [0, -1]] += 1
    x[:, torch.tensor([True, False, False, True, False, False, True])] *= 2


def of_a_view(x):
    x.transpose(0, 1)[-1] += 1
    x[0][2] *= 2
    x[1][:, 1] += 1
    x[2][3][4] -= 1
    x[-1][-1] = 7


def one_number(x):
    x[1, 2, 3] += 1


def across(x):
    x[..., 2] += 1
    x[0] *= 2


def twice(x):
    x[:, -1] += 1
    x[:, -1] += x[:, -1]


def rebound(x):
    row = x[:, -1]
    row += 1
    row *= 2


ONE = [add_one, all_operators, methods, moved_rows, by_lists, of_a_view, one_number, across, twice, rebound]


@pytest.mark.parametrize("write", ONE)
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_as_uncut(write, dim):
    def function(x):
        y = x * 1
        write(y)
        return y, y * y

    compare(function, Cut(values(3, 7, 5), dim))


def test_another_tensor():
    def function(x, other):
        y = x * 1
        add_to_one_row(y, other)
        return y * y

    compare(function, Cut(values(3, 7, 5), 1), Cut(values(3, 7, 5), 2))


def test_a_replicated_value_has_its_whole_gradient():
    def function(x, scale):
        y = x * 1
        y[:, -1] *= scale
        y[:, 2:4] += scale
        return y * y

    compare(function, Cut(values(3, 7, 5), 1), values(5))


def test_integers():
    def body(domain):
        whole = torch.arange(21).reshape(7, 3)
        x = graticule.shard(whole.clone(), domain, dim=0)
        x[-1] += 5
        x[-2] |= 64
        x[0] //= 2
        x[1] ^= 5
        x[2] &= 6
        whole[-1] += 5
        whole[-2] |= 64
        whole[0] //= 2
        whole[1] ^= 5
        whole[2] &= 6
        assert torch.equal(x.gather(), whole)
        with pytest.raises(RuntimeError, match="can't be cast"):
            x[-1] += 0.5
        assert torch.equal(x.gather(), whole)

    for size in (1, 2, 3):
        run_ranks(size, body)


def test_the_copy_is_out_of_date():
    def body(domain):
        x = graticule.shard(values(3, 7, 5), domain, dim=1)
        row = x[:, -1]
        row.add_(1)
        row.sum()

    found = failures(2, body)
    assert len(found) == 2
    assert all("take it again" in str(error) for error in found.values())


@pytest.mark.parametrize("write", [torch.Tensor.sin_, torch.Tensor.normal_])
def test_other_writes_are_refused(write):
    found = failures(2, lambda domain: write(graticule.shard(values(3, 7, 5), domain, dim=1)[:, -1]))
    assert len(found) == 2
    assert all("would be lost" in str(error) for error in found.values())


def test_a_leaf_is_refused_as_uncut():
    def body(domain):
        x = graticule.shard(values(3, 7, 5), domain, dim=1).requires_grad_()
        x[:, -1] += 1

    found = failures(2, body)
    assert len(found) == 2
    assert all("leaf" in str(error) for error in found.values())


def test_without_gradients():
    def body(domain):
        whole = values(3, 7, 5)
        whole.copy_(torch.arange(105.0).reshape(3, 7, 5))
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                x = graticule.shard(whole.clone(), domain, dim=1)
                x[:, -1] += 1
                x[:, 1:3] *= 2
                expected = whole.clone()
                expected[:, -1] += 1
                expected[:, 1:3] *= 2
                assert torch.equal(x.gather(), expected)

    for size in (1, 2, 3):
        run_ranks(size, body)


def test_a_gradient_cut_otherwise_goes_through_a_written_row():
    def written(x, y):
        w = y * 1
        w[..., 0] = 0
        w[..., 1] -= 1
        return x + w

    compare(written, Cut(values(4, 7, 5), 2), Cut(values(4, 7, 5), 0))
    compare(written, Cut(values(4, 7, 5), 0), Cut(values(4, 7, 5), 2))


def test_an_index_that_changes_later():
    def function(x):
        y, i = x * 1, torch.tensor(2)
        row = y[:, i]
        i += 1
        row += 5
        return y * y

    compare(function, Cut(values(3, 7, 5), 1))


def test_the_type_stays():
    def body(domain):
        x = graticule.shard(values(3, 7, 5, dtype=torch.float32), domain, dim=1)
        row = x[:, 3]
        row += values(3, 5)
        assert row.dtype == torch.float32

    run_ranks(2, body)


def test_values_that_fill():
    def function(x):
        y = x * 1
        y[:, 0].fill_(y[0, 0, 0])
        y[:, 1].fill_(value=2)
        return y * y

    compare(function, Cut(values(3, 7, 5), 1))


LOST = {
    "relu": lambda x: torch.nn.functional.relu(x[:, 3], inplace=True),
    "dropout": lambda x: torch.nn.functional.dropout(x[:, 3], 0.5, True, True),
    "a module": lambda x: torch.nn.SiLU(inplace=True)(x[:, 3]),
    "initialised": lambda x: torch.nn.init.constant_(x[:, 3], 2.0),
    "by keyword": lambda x: torch.relu_(input=x[:, 3]),
    "out": lambda x: torch.sum(x, 1, out=x[:, 3]),
    "a copy": lambda x: x[:, 3].contiguous().add_(1),
}


@pytest.mark.parametrize("name", LOST)
def test_writes_that_would_be_lost_are_refused(name):
    found = failures(2, lambda domain: LOST[name](graticule.shard(values(3, 7, 5), domain, dim=1)))
    assert len(found) == 2
    assert all("would be lost" in str(error) for error in found.values()), found


STALE = {
    "times": lambda x, row: x * row,
    "where": lambda x, row: torch.where(x[:, :5] > 0, x[:, :5], row[:, None]),
    "written": lambda x, row: x.__setitem__((slice(None), 1), row),
}


@pytest.mark.parametrize("name", STALE)
def test_old_rows_are_refused_beside_a_domain_tensor(name):
    def body(domain):
        x = graticule.shard(values(3, 7, 5), domain, dim=1)
        row = x[:, 3]
        x += 1
        STALE[name](x, row)

    found = failures(2, body)
    assert len(found) == 2
    assert all("take it again" in str(error) for error in found.values()), found


def test_old_rows_after_a_write_by_way_of_data():
    """Which autograd does not count."""

    def body(domain):
        x = graticule.shard(values(3, 7, 5), domain, dim=1)
        row = x[:, 3]
        x.data.add_(1)
        row * 2

    found = failures(2, body)
    assert len(found) == 2
    assert all("take it again" in str(error) for error in found.values()), found


@pytest.mark.parametrize("size", [1, 2, 3])
def test_old_rows_in_inference_mode(size):
    def body(domain):
        with torch.inference_mode():
            x = graticule.shard(values(3, 7, 5), domain, dim=1)
            row = x[:, 3]
            assert torch.equal(row * 1, x[:, 3] * 1)
            x += 1
            if size == 1:
                # One rank's row is a view.
                return
            row * 2

    found = failures(size, body)
    assert len(found) == (0 if size == 1 else size)
    assert all("take it again" in str(error) for error in found.values()), found


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 1:6:2],
        lambda x: x.flatten(),
        lambda x: x.view(7, 15),
        lambda x: x.unflatten(1, (7, 1)).mT.view(-1),
    ],
    ids=["slice", "flatten", "view", "view of a view"],
)
def test_old_views_in_inference_mode(view):
    whole = torch.arange(105.0).reshape(3, 7, 5)

    def body(domain):
        with torch.inference_mode():
            x = graticule.shard(whole, domain, dim=1)
            seen = view(x)
            assert torch.equal((seen * 1).gather(), view(whole))
            x += 1
            if not seen._moved:
                assert torch.equal((seen * 1).gather(), view(whole) + 1)
                return
            with pytest.raises(RuntimeError, match="take it again"):
                seen * 2

    run_ranks(3, body)


@pytest.mark.parametrize("index", [[2, 0], torch.tensor([1]), torch.tensor([True, False, True]), ([0, 1],)])
def test_what_an_index_copies_in_inference_mode_may_be_written(index):
    def body(domain):
        with torch.inference_mode():
            whole = torch.arange(21.0).reshape(3, 7)
            x = graticule.shard(whole, domain, dim=0)
            taken = x[index]
            expected = whole[index] * 3 + 1
            taken *= 3
            taken += 1
            assert torch.equal(taken.gather() if isinstance(taken, graticule.DomainTensor) else taken, expected)
            assert torch.equal(x.gather(), whole)

    run_ranks(2, body)


def test_a_list_that_stands_for_a_tuple_takes_a_row_in_inference_mode():
    def body(domain):
        with torch.inference_mode():
            x = graticule.shard(torch.arange(21.0).reshape(3, 7), domain, dim=1)
            row = x[[slice(None), 3]]
            row.add_(1)
            assert torch.equal(x.gather()[:, 3], torch.arange(21.0).reshape(3, 7)[:, 3] + 1)

    run_ranks(2, body)


def test_a_row_goes_on_in_inference_mode():
    def body(domain):
        whole = torch.arange(105.0).reshape(3, 7, 5)
        with torch.inference_mode():
            x = graticule.shard(whole.clone(), domain, dim=1)
            for i in range(7):
                x[:, i] += x[:, (i + 3) % 7]
                row = x[:, i]
                row *= 2
                whole[:, i] += whole[:, (i + 3) % 7]
                whole[:, i] *= 2
            assert torch.equal(x.gather(), whole)

    for size in (1, 2, 3):
        run_ranks(size, body)


@pytest.mark.parametrize(
    "read",
    [lambda t: t.gather(), lambda t: t.local, lambda t: t.mT * 1, lambda t: t * 1, lambda t: t.tolist()],
    ids=["gather", "local", "property", "op", "list"],
)
@pytest.mark.parametrize("write", [lambda x: x[:, 2:5].zero_(), lambda x: x.data.zero_()], ids=["rows", "data"])
def test_old_views_are_refused_however_they_are_read(read, write):
    def body(domain):
        x = graticule.shard(values(3, 7, 5), domain, dim=1) * 1
        moved = x.view(3, 5, 7)
        assert moved._moved
        write(x)
        read(moved)

    found = failures(2, body)
    assert len(found) == 2
    assert all("take it again" in str(error) for error in found.values()), found


def test_a_row_is_printed_and_copied_as_a_tensor():
    def body(domain):
        x = graticule.shard(torch.arange(105.0).reshape(3, 7, 5), domain, dim=1)
        assert f"{x[0, 3, 1]:.1f}" == "16.0"
        row = x[:, 3].detach()
        copied = copy.deepcopy({"row": row})["row"]
        assert type(copied) is torch.Tensor and torch.equal(copied, row * 1)
        row.requires_grad_()
        assert row.requires_grad

    run_ranks(2, body)


@pytest.mark.parametrize("kind", ["array", "list", "tensor"])
def test_a_mask_of_two_dimensions_beside_an_integer_of_the_cut_one(kind):
    """Of whatever kind: no write may be lost."""
    mask = torch.ones(4, 5, dtype=torch.bool)
    index = {"array": mask.numpy(), "list": mask.tolist(), "tensor": mask}[kind]

    def body(domain):
        x = graticule.shard(torch.zeros(4, 5, 6), domain, 2)
        x[index, 3] = 0.5
        return x

    errors = failures(2, body)
    assert len(errors) == 2 and all("beside the integer 3" in str(error) for error in errors.values())


@pytest.mark.parametrize("index", [[slice(None), 3], [None, slice(1, 3), -1], [Ellipsis, 0]])
def test_a_list_that_stands_for_a_tuple(index):
    def write(x):
        y = x * 1
        y[index] = 0.5
        return y

    compare(write, Cut(values(4, 6), 1), ranks=(2, 3))
