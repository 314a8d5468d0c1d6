"""Views: reshapes that merge and split the cut dimension, other orders of dimensions, windows, and writes into them."""

import math

import einops
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import graticule
from graticule import DomainTensor
from support.ranks import failures, run_ranks
from tensor.comparison import Cut, compare, uneven

torch.manual_seed(0)


def values(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype)


RESHAPES = [
    # Of what is cut as (2, 3, 12, 4) along dimension 2.
    (2, 3, 48),
    (2, 36, 4),
    (6, 12, 4),
    (288,),
    (-1, 4),
    (2, 3, 4, 3, 4),
    (2, 3, 3, 4, 4),
    (2, 3, 2, 6, 4),
    (2, 3, 12, 2, 2),
    (2, 3, 6, 8),
    (2, 3, 16, 3),
    (3, 2, 12, 4),
    (4, 72),
    (9, 32),
    (1, 2, 1, 3, 1, 12, 4, 1),
    (2, 18, 2, 4),
    (32, 9),
    (144, 2),
    (2, 9, 16),
    (1, 288, 1),
]


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_reshapes(dim):
    compare(lambda x: [(x * 1).reshape(shape) * 2 for shape in RESHAPES], Cut(values(2, 3, 12, 4), dim))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_reshapes_of_prime_sizes(dim):
    compare(
        lambda x: [
            x.reshape(shape).sin() for shape in [(35, 3), (7, 15), (5, 21), (105,), (3, 5, 7), (21, 5), (1, 105)]
        ],
        Cut(values(5, 7, 3), dim),
    )


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_reshapes_of_other_orders(dim):
    compare(
        lambda x: [
            x.permute(2, 0, 1).reshape(6, 8),
            x.transpose(0, 1).reshape(2, 4, 2, 3).transpose(1, 2).reshape(4, 12),
            x.transpose(0, 2).flatten(0, 1).transpose(0, 1).reshape(2, 2, 12),
            x.permute(2, 1, 0).flatten().unflatten(0, (3, 16)).reshape(-1, 2).t().contiguous().view(4, 12),
        ],
        Cut(values(4, 4, 3), dim),
    )


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4, 3), (2, 4, 0)])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_no_elements(shape, dim):
    compare(
        lambda x: [x.reshape(0), x.reshape(3, 0, 7), x.transpose(0, 1).reshape(0, 5), x.flatten(1), x.unsqueeze(0)],
        Cut(values(*shape), dim),
    )


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_one_row(dim):
    compare(
        lambda x: [x.reshape(20), x.squeeze() * 2, x.reshape(5, 1, 4), x.squeeze(0), x.squeeze(2), x.squeeze((0, 2))],
        Cut(values(1, 4, 1, 5), dim),
    )


def test_one_element():
    compare(lambda x: [x.reshape(()) * 3, x.squeeze() + 1, x.squeeze(0), x[0].expand(4)], Cut(values(1, 1), 0))


def test_a_write_into_what_has_no_dimension_to_cut_is_refused():
    def body(domain):
        x = graticule.shard(values(1, 1), domain, dim=0)
        for view in (x.squeeze(), x.view(())):
            with pytest.raises(RuntimeError, match="would be lost"):
                view.zero_()

    for size in (1, 2, 3):
        run_ranks(size, body)


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_any_reshape_and_back(data):
    factors = data.draw(st.lists(st.sampled_from([1, 2, 2, 3, 4, 5]), min_size=1, max_size=6))

    def grouped(order):
        sizes = [[]]
        for factor in order:
            if data.draw(st.booleans()):
                sizes.append([])
            sizes[-1].append(factor)
        return tuple(math.prod(group) for group in sizes)

    first, second = grouped(factors), grouped(data.draw(st.permutations(factors)))
    third = grouped(data.draw(st.permutations(factors)))
    dim = data.draw(st.integers(0, len(first) - 1))
    order = data.draw(st.permutations(range(len(second))))
    whole = torch.arange(math.prod(factors), dtype=torch.float64).reshape(first)
    size = data.draw(st.integers(1, 4))
    inner = sorted(data.draw(st.lists(st.integers(0, first[dim]), min_size=size - 1, max_size=size - 1)))
    offsets = [0, *inner, first[dim]]

    def body(domain):
        own = whole.narrow(dim, offsets[domain.rank], offsets[domain.rank + 1] - offsets[domain.rank]).clone()
        x = graticule.from_local(own, domain, dim=dim)
        with graticule.report(strict=True):
            steps = [x.reshape(second)]
            steps.append(steps[-1].permute(order))
            steps.append(steps[-1].reshape(third))
            steps.append(steps[-1].reshape(steps[1].shape))
        return [step.gather() for step in steps]

    expected = [whole.reshape(second)]
    expected.append(expected[-1].permute(order))
    expected.append(expected[-1].reshape(third))
    expected.append(expected[1])
    for results in run_ranks(size, body):
        for result, reference in zip(results, expected, strict=True):
            assert torch.equal(result, reference)


B, C, H, W = 2, 3, 12, 6


def windows(x, h, w):
    """b c (h h1) (w w1) -> (b h w) (h1 w1) c."""
    b, c, height, width = x.shape
    x = x.reshape(b, c, h, height // h, w, width // w).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(b * h * w, (height // h) * (width // w), c)


def unwindows(x, b, h, w, h1, w1):
    x = x.reshape(b, h, w, h1, w1, x.shape[-1]).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(b, -1, h * h1, w * w1)


def strided(x, h1, w1):
    """b c (h1 h) (w1 w) -> (b h w) c h1 w1, windows of rows far apart."""
    b, c, height, width = x.shape
    h, w = height // h1, width // w1
    return x.reshape(b, c, h1, h, w1, w).permute(0, 3, 5, 1, 2, 4).reshape(b * h * w, c, h1, w1)


def unstrided(x, b, h, w):
    c, h1, w1 = x.shape[1:]
    return x.reshape(b, h, w, c, h1, w1).permute(0, 3, 4, 1, 5, 2).reshape(b, c, h1 * h, w1 * w)


def with_weights(x):
    """An op that mixes places, so that a mistaken order of them is seen."""
    return x * torch.linspace(-1, 2, x.numel(), dtype=torch.float64).reshape(x.shape)


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_windows_and_back(dim):
    def function(x):
        results = []
        for h, w in [(3, 3), (4, 2), (6, 1), (2, 6), (12, 2), (1, 3)]:
            y = with_weights(windows(x, h, w))
            results += [y, x + unwindows(y, B, h, w, H // h, W // w)]
        return results

    compare(function, Cut(values(B, C, H, W), dim))


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_strided_windows_and_back(dim):
    def function(x):
        results = []
        for h1, w1 in [(3, 3), (4, 2), (2, 6), (12, 2)]:
            y = with_weights(strided(x, h1, w1))
            results += [y, x + unstrided(y, B, H // h1, W // w1)]
        return results

    compare(function, Cut(values(B, C, H, W), dim))


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_tokens_and_batches_and_back(dim):
    def function(x):
        tokens = x.flatten(2).transpose(1, 2)
        heads = with_weights(tokens.reshape(B, H * W, C, 1).transpose(1, 2))
        back = heads.transpose(1, 2).reshape(B, H * W, C).transpose(1, 2).reshape(B, C, H, W)
        rows = x.permute(0, 2, 3, 1).reshape(B * H, W, C)
        columns = x.permute(0, 3, 2, 1).reshape(B * W, H, C)
        return (
            tokens * 2,
            back + x,
            with_weights(rows).reshape(B, H, W, C).permute(0, 3, 1, 2) + x,
            with_weights(columns).reshape(B, W, H, C).permute(0, 3, 2, 1) * x,
            with_weights(rows.reshape(B * H // 4, 4 * W, C)).reshape(B, H, W, C),
        )

    compare(function, Cut(values(B, C, H, W), dim))


def test_merged_and_split_again_nothing_travels():
    x_whole = values(B, C, H, W)

    def body(domain):
        offsets = uneven(H, domain.size)
        begin, end = offsets[domain.rank : domain.rank + 2]
        x = graticule.from_local(x_whole[:, :, begin:end].clone(), domain)
        aligned = graticule.shard(values(B, C, 4 * domain.size, W), domain)
        with graticule.report() as report:
            for y in (
                x.flatten(2).reshape(x.shape),
                x.permute(0, 2, 3, 1).reshape(B * H * W, C).reshape(B, H, W, C).permute(0, 3, 1, 2),
                x.reshape(-1).reshape(x.shape),
                x.transpose(0, 2).reshape(H * C * B * W).reshape(H, C, B, W).transpose(0, 2),
            ):
                assert y.offsets == x.offsets and y.cut_dim == 2
                assert torch.equal(y.local, x.local)
            split = windows(aligned, 2 * domain.size, 3)
            unwindows(split, B, 2 * domain.size, 3, 2, 2)
        assert not report.calls, report

    for size in (1, 2, 3, 4):
        run_ranks(size, body)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_orders_and_sizes_of_one(dim):
    compare(
        lambda x: [
            x.permute(2, 0, 1),
            x.permute(-1, 1, -3) * 2,
            x.transpose(0, -1),
            x.movedim(0, 2),
            x.movedim((0, 1), (2, 0)),
            x.mT,
            x.flatten(1).t(),
            x.unsqueeze(0),
            x.unsqueeze(1),
            x.unsqueeze(2),
            x.unsqueeze(-1),
            x.unsqueeze(1).squeeze(1),
            x.unsqueeze(-1).squeeze(),
            x.squeeze(),
            x.squeeze(0),
            x.squeeze((0, 1)),
            x.unsqueeze(1).expand(4, 2, 5, 3),
            x.expand(2, 4, 5, 3),
            x.expand(2, -1, -1, -1),
            x.expand(4, 5, 3),
            x.unsqueeze(0).unsqueeze(2).expand(2, 4, 3, 5, 3).flatten(1, 2),
            x.view_as(x.new_zeros(4, 5, 3)) + 1,
            x.swapaxes(0, 1).ravel(),
        ],
        Cut(values(4, 5, 3), dim),
    )


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_repeats(dim):
    compare(
        lambda x: [
            x.repeat(2, 1, 3),
            x.repeat(2, 1, 2, 1),
            x.tile(3),
            x.tile(2, 1, 1),
            x.repeat_interleave(2, dim=1),
            x.repeat_interleave(3, dim=0),
            x.repeat_interleave(2),
            x.tile(2, 2, 2).reshape(-1, 6),
        ],
        Cut(values(4, 5, 3), dim),
    )


@pytest.mark.parametrize("dim", [0, 1])
def test_expansion_of_one_row(dim):
    compare(lambda x: [x.expand(5, 7), x.expand(3, 5, 7) * 2, x.expand(0, 7), x.expand(1, 7)], Cut(values(1, 7), 0))
    compare(lambda x: x.reshape(1, 1, 6).expand(2, 3, 6), Cut(values(2, 3), dim))


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_shuffles(dim):
    compare(
        lambda x: [
            F.pixel_shuffle(x, 2),
            F.pixel_shuffle(x, 1),
            F.pixel_unshuffle(x, 2),
            F.pixel_unshuffle(x, 3),
            F.pixel_unshuffle(F.pixel_shuffle(x, 2), 4),
            F.channel_shuffle(x, 2),
            F.channel_shuffle(x, 4),
            F.pixel_shuffle(x[0], 2),
        ],
        Cut(values(2, 8, 12, 6), dim),
    )
    compare(lambda x: torch.native_channel_shuffle(x, 4), Cut(values(2, 8, 3, 6), dim), gradients=False)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_shuffles_of_merged_dimensions(dim):
    compare(
        lambda x: [
            F.pixel_shuffle(x.transpose(0, 1).reshape(4, 12, 2), 2),
            F.pixel_unshuffle(x.transpose(0, 1).reshape(4, 12, 2), 2),
            F.channel_shuffle(x.transpose(0, 1).reshape(4, 12, 2), 3),
        ],
        Cut(values(3, 4, 8), dim),
    )


@pytest.mark.parametrize("dim", [0, 1])
def test_windows_that_slide(dim):
    options = [(1, 1), (2, 1), (3, 2), (3, 3), (2, 5), (7, 3), (13, 1), (12, 1), (4, 13), (5, 4), (0, 1), (1, 4)]
    compare(lambda x: [x.unfold(0, size, step).sin() for size, step in options], Cut(values(13, 4), dim))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_windows_in_two_dimensions(dim):
    compare(
        lambda x: [
            x.unfold(1, 3, 1).unfold(2, 2, 2).sum((-1, -2)),
            x.unfold(-1, 3, 2).permute(0, 3, 1, 2).reshape(2, -1, 3),
            x.transpose(0, 1).reshape(16, 7).unfold(0, 5, 2),
            x.unfold(1, 8, 8).transpose(1, -1).flatten(0, 1),
        ],
        Cut(values(2, 8, 7), dim),
    )


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_diagonals(dim):
    compare(
        lambda x: [x.diagonal(), x.diagonal(1, 0, 2), x.diagonal(-2, 1, 2) * 2, x.diagonal(0, 2, 1)],
        Cut(values(4, 5, 4), dim),
    )
    other = (dim + 1) % 3, (dim + 2) % 3
    compare(lambda x: x.diagonal(1, *other).sin(), Cut(values(4, 5, 4), dim))


@pytest.mark.parametrize("dim", [0, 1])
def test_writes_into_diagonals(dim):
    """Through the cut dimension too: each rank's part of them is a view."""

    def function(x, y):
        z = x * 1
        z.diagonal(1).mul_(3)
        z.diagonal(-2).copy_(y)
        return z, torch.diagonal_scatter(x, y, -2)

    compare(function, Cut(values(7, 5), dim), values(5))


@pytest.mark.parametrize("dim", [0, 1])
def test_complex(dim):
    def function(x):
        z = torch.view_as_complex(x)
        w = (z * (1 + 2j)).reshape(3, 8).transpose(0, 1)
        return (
            torch.view_as_real(w),
            torch.view_as_real(w.conj() * w),
            w.real,
            w.conj().imag,
            w.reshape(-1).conj().abs(),
        )

    compare(function, Cut(values(4, 6, 2), dim))
    compare(lambda x: torch.view_as_complex(x).abs(), Cut(values(4, 6, 2), 2), gathers=True)


@pytest.mark.parametrize("dim", [0, 1])
def test_other_types(dim):
    x = values(5, 6)
    compare(lambda x: x.view(torch.int64), Cut(x, dim), gradients=False)
    compare(lambda x: [x.view(torch.float32), x.view(torch.complex128)], Cut(x, dim), gradients=False, gathers=dim == 1)


def test_strides():
    x = values(4, 5)

    def body(domain):
        t = graticule.shard(x, domain, dim=0)
        assert torch.equal(t.as_strided((3, 2), (1, 5)).gather(), x.as_strided((3, 2), (1, 5)))
        columns = graticule.shard(x.t(), domain, dim=0)
        assert columns.stride() == (1, 5)
        assert torch.equal(columns.as_strided((20,), (1,), 0).gather(), x.t().as_strided((20,), (1,), 0))
        with pytest.raises(RuntimeError, match="would be lost"):
            t.as_strided((2, 2), (1, 5)).zero_()
        with pytest.raises(RuntimeError, match="storage offset"):
            t.t().as_strided((2,), (1,), 1)

    for size in (1, 2, 3):
        run_ranks(size, body)


WRITES = {
    "view": lambda x: x.view(2, 3, 72).mul_(2),
    "reshape": lambda x: x.reshape(6, 72).add_(x.detach().flatten(2).reshape(6, 72)),
    "flatten": lambda x: x.flatten(2).sin_(),
    "permute": lambda x: x.permute(3, 2, 0, 1).mul_(3),
    "unsqueeze": lambda x: x.unsqueeze(0).mul_(3),
    "squeeze": lambda x: x.unsqueeze(2).squeeze(2).mul_(3),
    "several": lambda x: x.transpose(1, 2).unsqueeze(0).transpose(-1, -2).neg_(),
    "split": lambda x: x.view(2, 3, 12, 2, 3).transpose(3, 4).exp_(),
    "diagonal": lambda x: x.diagonal(0, 0, 1).mul_(5),
    "detached": lambda x: x.detach().view(2, -1).zero_(),
    "other type": lambda x: x.detach().view(torch.int64).zero_(),
    "copied by a reshape": lambda x: x.transpose(1, 2).reshape(2, 36, 6).zero_(),
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_into_views(name):
    def function(x):
        y = x * 1
        WRITES[name](y)
        return y, y * 2

    compare(function, Cut(values(2, 3, 12, 6)))


def test_a_gradient_cut_otherwise_goes_through_a_written_view():
    def function(x):
        y = x * 1
        y.view(2, 3, 72).mul_(2)
        return with_weights(windows(y, 3, 2)), with_weights(y.transpose(0, 1).reshape(6, 72).t().reshape(8, 54))

    compare(function, Cut(values(2, 3, 12, 6)))


def test_a_gradient_cut_along_what_a_written_view_splits():
    def function(x, z):
        y = x * 1
        y.view(2, 12, 2, 3).mul_(2)
        return (y * z).sum(0)

    compare(function, Cut(values(2, 12, 6), 1), Cut(values(5, 2, 12, 6), 3))


def test_writes_into_moved_rows_are_refused():
    def body(domain):
        x = graticule.shard(values(2, 7, 6), domain, dim=1)
        for view in (x.view(2, 2, 21), x.unfold(1, 3, 1), x.view(3, 28).transpose(0, 1), x.view(84)[:1].expand(3)):
            with pytest.raises(RuntimeError):
                view.zero_()
        assert x.view(2, 42)._moved is False

    run_ranks(2, body)


def test_what_is_no_view_is_refused():
    def body(domain):
        x = graticule.shard(values(2, 8, 6), domain, dim=1)
        for y, shape in ((x.transpose(0, 1), (16, 6)), (x.transpose(1, 2), (2, 48)), (x.permute(2, 0, 1), (-1,))):
            with pytest.raises(RuntimeError, match="use reshape"):
                y.view(shape)
            y.reshape(shape)
        for shape in ((5,), (-1, 7), (-1, -1)):
            with pytest.raises(RuntimeError):
                x.view(shape)
            with pytest.raises(RuntimeError):
                x.reshape(shape)
        with pytest.raises(RuntimeError):
            x.expand(2, 9, 6)
        with pytest.raises(RuntimeError):
            x.expand(8, 6)
        with pytest.raises(RuntimeError):
            x.unfold(1, 9, 1)
        with pytest.raises(RuntimeError):
            x.unfold(1, 2, 0)
        with pytest.raises(RuntimeError):
            F.pixel_shuffle(x, 2)
        for dims in ((0, 1), (0, 0, 1), (0, 1, 3)):
            with pytest.raises((RuntimeError, IndexError)):
                x.permute(dims)
        for function in (x.squeeze, x.unsqueeze, lambda d: x.transpose(0, d)):
            with pytest.raises(IndexError):
                function(4)

    for size in (1, 2, 4):
        run_ranks(size, body)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.squeeze_(),
        lambda x: x.squeeze_(0),
        lambda x: x.unsqueeze_(0),
        lambda x: x.transpose_(0, 1),
        lambda x: x.t_(),
        lambda x: x.swapaxes_(0, 1),
        lambda x: x.resize_(3),
        lambda x: x.as_strided_((2,), (1,)),
        lambda x: x.set_(),
    ],
)
def test_changes_of_shape_in_place_are_refused(function):
    found = failures(2, lambda domain: function(graticule.shard(values(4, 1), domain, dim=0)))
    assert len(found) == 2
    assert all("in place" in str(error) for error in found.values())


def test_rows_that_are_part_of_other_memory():
    memory = values(3, 8, 5)

    def body(domain):
        own = memory.clone()[:, 1 : 3 + domain.rank, 1:]
        x = graticule.from_local(own, domain, dim=1)
        assert isinstance(x, DomainTensor)
        whole = x.gather()
        for shape in ((3, -1), (-1, 4), (-1,), (2, -1)):
            y = x.reshape(shape)
            assert torch.equal(y.gather(), whole.reshape(shape))

    for size in (1, 2, 3):
        run_ranks(size, body)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.complex64])
def test_numbers_of_any_kind_move(dtype):
    whole = (torch.arange(84).reshape(2, 7, 6) % 5).to(dtype)

    def body(domain):
        for dim in range(3):
            with graticule.report(strict=True):
                x = graticule.shard(whole, domain, dim=dim)
                moved = x.reshape(28, 3), x.transpose(0, 1).reshape(4, 21), x.unfold(dim, 2, 1)
            expected = whole.reshape(28, 3), whole.transpose(0, 1).reshape(4, 21), whole.unfold(dim, 2, 1)
            for result, reference in zip(moved, expected, strict=True):
                assert torch.equal(result.gather(), reference)

    for size in (2, 3):
        run_ranks(size, body)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_writes_without_gradients(mode):
    whole = values(2, 8, 6)

    def body(domain):
        with mode():
            x = graticule.shard(whole, domain, dim=1)
            x.view(2, 48).mul_(2)
            assert torch.equal(x.gather(), 2 * whole)
            x.permute(1, 0, 2).reshape(16, 6).zero_()
            assert torch.equal(x.gather(), 2 * whole)
            with pytest.raises(RuntimeError, match="would be lost"):
                x.view(32, 3).reshape(3, 32).zero_()

    run_ranks(3, body)


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_einops(dim):
    back = "b (h w) c -> b c h w"
    compare(
        lambda x: [
            einops.rearrange(x, "b c (h p) (w q) -> (b h w) (p q) c", p=3, q=2).sin(),
            einops.rearrange(x, "b c (p h) (q w) -> b (h w) (p q) c", p=3, q=2).sin(),
            einops.rearrange(x, "b (k c) h w -> k (b h) w c", k=3).sin(),
            einops.repeat(x, "b c h w -> b (c r) h w", r=2),
            einops.reduce(x, "b c (h p) w -> b c h w", "mean", p=4),
            einops.rearrange(einops.rearrange(x, "b c h w -> b (h w) c") * 2, back, h=12),
        ],
        Cut(values(2, 6, 12, 6), dim),
    )
