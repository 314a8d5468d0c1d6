"""gather_rows and fold_rows: against plain indexing, and each the adjoint of the other."""

import random

import pytest
import torch
from torch import nn

import graticule
from graticule import fold_rows, fold_rows_of_each, gather_rows, gather_rows_of_each
from graticule.domain_parallel import (
    DomainParallelConv2d,
    DomainParallelConvTranspose2d,
    DomainParallelGroupNorm,
    DomainParallelInterpolate,
    HaloExchange,
    gather_tensor,
    shard_tensor,
)
from support.ranks import own_rows, relative, run_ranks

# (boundary, row_on_pole, flip_sign)
BOUNDARIES = [
    ("zeros", True, False),
    ("reflect", True, False),
    ("replicate", True, False),
    ("circular", True, False),
    ("pole", True, False),
    ("pole", True, True),
    ("pole", False, False),
    ("pole", False, True),
]


def source(row: int, rows: int, boundary: str, row_on_pole: bool) -> tuple[int, bool]:
    """The row that stands at `row` (-1: zeros), and whether it lies across a pole: by walking, not by formula."""
    if boundary == "zeros":
        return (row, False) if 0 <= row < rows else (-1, False)
    if boundary == "replicate":
        return min(max(row, 0), rows - 1), False
    if boundary == "circular":
        while row < 0:
            row += rows
        while row >= rows:
            row -= rows
        return row, False
    between = boundary == "pole" and not row_on_pole
    crossings = 0
    while not 0 <= row < rows:
        if row < 0:
            row = -1 - row if between else -row
        else:
            row = 2 * rows - 1 - row if between else 2 * (rows - 1) - row
        crossings += 1
    # The rows on the poles are those of every longitude's way over them.
    on_pole = not between and row in (0, rows - 1)
    return row, boundary == "pole" and crossings % 2 == 1 and not on_pole


def reference(x, begin, end, dim, lon_dim, boundary, row_on_pole, flip_sign):
    """The rows [begin, end) of the extended whole grid."""
    taken = []
    for row in range(begin, end):
        at, across = source(row, x.shape[dim], boundary, row_on_pole)
        piece = torch.zeros_like(x.narrow(dim, 0, 1)) if at < 0 else x.narrow(dim, at, 1)
        if across:
            piece = piece.roll(x.shape[lon_dim] // 2, lon_dim)
            piece = -piece if flip_sign else piece
        taken.append(piece)
    return torch.cat(taken, dim) if taken else x.narrow(dim, 0, 0)


def random_cut(rng: random.Random, rows: int, ranks: int) -> list[int]:
    """Offsets of any kind: half of the cuts have empty shards."""
    inner = sorted(rng.randint(0, rows) for _ in range(ranks - 1))
    if ranks > 2 and rng.random() < 0.5:
        inner[0] = inner[1]
    return [0, *sorted(inner), rows]


def random_intervals(rng: random.Random, offsets: list[int], boundary: str) -> tuple[list[int], list[int]]:
    """Of each rank: its rows with a halo, wider than any shard now and then; or rows anywhere; or none."""
    rows = offsets[-1]
    begins, ends = [], []
    for first, last in zip(offsets[:-1], offsets[1:], strict=True):
        kind = rng.choice(["halo", "halo", "wide", "anywhere", "none"])
        if kind == "halo":
            begin, end = first - rng.randint(0, 3), last + rng.randint(0, 3)
        elif kind == "wide":
            begin, end = first - rng.randint(rows, 2 * rows + 1), last + rng.randint(rows, 2 * rows + 1)
        elif kind == "anywhere":
            begin = rng.randint(-rows, rows)
            end = begin + rng.randint(0, 2 * rows)
        else:
            begin = end = rng.randint(0, rows)
        begins.append(begin)
        ends.append(end)
    return begins, ends


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("boundary,row_on_pole,flip_sign", BOUNDARIES)
def test_gather_takes_the_rows_and_fold_is_its_adjoint(boundary, row_on_pole, flip_sign, ranks):
    rng = random.Random(f"{boundary} {row_on_pole} {flip_sign} {ranks}")
    for trial in range(25):
        torch.manual_seed(trial)
        rows = rng.randint(2, 17)
        offsets = random_cut(rng, rows, ranks)
        begins, ends = random_intervals(rng, offsets, boundary)
        dim, lon_dim = rng.choice([(2, 3), (3, 2), (1, 3), (0, 2)])
        shape = [2, 3, 4, 6]
        shape[dim] = rows
        x = torch.randn(shape, dtype=torch.float64)
        options = {
            "offsets": offsets,
            "begins": begins,
            "ends": ends,
            "boundary": boundary,
            "dim": dim,
            "lon_dim": lon_dim if boundary == "pole" else None,
            "row_on_pole": row_on_pole,
            "flip_sign": flip_sign,
        }
        wanted = [
            reference(x, begin, end, dim, lon_dim, boundary, row_on_pole, flip_sign)
            for begin, end in zip(begins, ends, strict=True)
        ]
        weights = [torch.randn_like(w) for w in wanted]

        def body(domain, x=x, weights=weights, options=options):
            mine = own_rows(x, options["dim"], domain, options["offsets"])
            return gather_rows(mine, domain, **options), fold_rows(weights[domain.rank], domain, **options)

        results = run_ranks(ranks, body)
        for (got, _), expected in zip(results, wanted, strict=True):
            assert torch.equal(got, expected), options
        folded = torch.cat([part for _, part in results], dim)
        assert folded.shape == x.shape
        forward = sum((w * got).sum() for w, (got, _) in zip(weights, results, strict=True))
        scale = sum((w * got).abs().sum() for w, (got, _) in zip(weights, results, strict=True)) + 1e-300
        assert abs(forward - (x * folded).sum()) <= 1e-13 * scale, options
        # The adjoint row by row, from the same reference under autograd.
        leaf = x.clone().requires_grad_()
        total = sum(
            (w * reference(leaf, b, e, dim, lon_dim, boundary, row_on_pole, flip_sign)).sum()
            for w, b, e in zip(weights, begins, ends, strict=True)
        )
        if total.requires_grad:
            (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True, materialize_grads=True)
            assert relative(folded, gradient) < 1e-14, options


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64])
def test_every_dtype_and_layout_travels(dtype, layout):
    x = torch.arange(2 * 3 * 11 * 4).reshape(2, 3, 11, 4).to(dtype).to(memory_format=layout)
    offsets = [0, 2, 2, 11]

    def body(domain):
        mine = own_rows(x, 2, domain, offsets)
        # Ranks may hold their shards in different layouts.
        mine = mine.contiguous() if domain.rank == 0 else mine.contiguous(memory_format=layout)
        return gather_rows(mine, domain, offsets, [-1, 0, 1], [3, 4, 13], "circular", 2)

    for got, (begin, end) in zip(run_ranks(3, body), [(-1, 3), (0, 4), (1, 13)], strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, reference(x, begin, end, 2, 3, "circular", True, False))


def test_none_takes_rows_of_the_grid_only():
    x = torch.randn(1, 1, 7, 2)

    def body(domain):
        return gather_rows(own_rows(x, 2, domain), domain, [0, 3, 7], [0, 2], [7, 6], dim=2)

    whole, part = run_ranks(2, body)
    assert torch.equal(whole, x)
    assert torch.equal(part, x[:, :, 2:6])


def test_an_odd_number_of_longitudes_has_no_pole():
    def body(domain):
        for call in (gather_rows, fold_rows):
            with pytest.raises(RuntimeError, match="even number of longitudes.*got 5"):
                call(torch.zeros(1, 1, 4, 5), domain, [0, 4, 8], [-1, 3], [5, 9], "pole", 2, lon_dim=3)

    run_ranks(2, body)


def test_a_second_derivative_is_another_exchange():
    """Gather is linear: the gradient of its gradient is gather again."""
    x = torch.randn(1, 2, 9, 3, dtype=torch.float64)
    offsets, begins, ends = [0, 4, 9], [-2, 1], [6, 12]

    def body(domain):
        mine = own_rows(x, 2, domain).requires_grad_()
        got = gather_rows(mine, domain, offsets, begins, ends, "reflect", 2)
        (first,) = torch.autograd.grad(got.pow(3).sum(), mine, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), mine)
        return first.detach(), second

    leaf = x.clone().requires_grad_()
    total = sum(
        reference(leaf, b, e, 2, 3, "reflect", True, False).pow(3).sum() for b, e in zip(begins, ends, strict=True)
    )
    (first,) = torch.autograd.grad(total, leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), leaf)
    parts = run_ranks(2, body)
    assert relative(torch.cat([p[0] for p in parts], 2), first.detach()) < 1e-13
    assert relative(torch.cat([p[1] for p in parts], 2), second) < 1e-13


@pytest.mark.parametrize("boundary,row_on_pole,flip_sign", BOUNDARIES)
def test_several_tensors_travel_together(boundary, row_on_pole, flip_sign):
    """Of any dtype and rank; in one message to each neighbour, each with the bits that it has alone."""
    offsets, begins, ends = [0, 4, 9, 15], [-2, 3, 7], [6, 10, 17]
    levels = torch.randn(2, 3, 4, 15, 6, dtype=torch.float64)
    surface = torch.randn(2, 15, 6)
    mask = torch.arange(15 * 6).reshape(15, 6).to(torch.int16)
    half = torch.randn(3, 15, 2, dtype=torch.bfloat16)
    options = {"boundary": boundary, "lon_dim": -1, "row_on_pole": row_on_pole}
    flips = [False, flip_sign, False, flip_sign]

    def body(domain):
        own = [own_rows(t, t.dim() - 2, domain, offsets) for t in (levels, surface, mask, half)]
        leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in own]
        sent = domain.messages_sent
        together = gather_rows_of_each(leaves, domain, offsets, begins, ends, flip_signs=flips, **options)
        messages = domain.messages_sent - sent
        twins = [t.clone().requires_grad_(t.is_floating_point()) for t in own]
        alone = [
            gather_rows(t, domain, offsets, begins, ends, flip_sign=flip, **options)
            for t, flip in zip(twins, flips, strict=True)
        ]
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a, b)
        sum(t.double().square().sum() for t in together).backward()
        for t in alone:
            if t.requires_grad:
                t.double().square().sum().backward()
        for a, b in zip(leaves, twins, strict=True):
            assert (a.grad is None) == (b.grad is None)
            assert a.grad is None or torch.equal(a.grad, b.grad)
        folded = fold_rows_of_each(
            [t.detach() for t in alone], domain, offsets, begins, ends, flip_signs=flips, **options
        )
        for a, t, flip in zip(folded, alone, flips, strict=True):
            assert torch.equal(a, fold_rows(t.detach(), domain, offsets, begins, ends, flip_sign=flip, **options))
        return messages

    neighbours = [2, 2, 2] if boundary == "circular" else [1, 2, 1]
    assert run_ranks(3, body) == neighbours


@pytest.mark.parametrize("needs", [(True, False), (False, True), (True, True)])
def test_one_of_several_may_need_no_gradient(needs):
    """On every rank another one, too: what is not needed still travels."""
    x = [torch.randn(1, 2, 8, 3, dtype=torch.float64) for _ in range(2)]

    def body(domain):
        order = needs if domain.rank == 0 else needs[::-1]
        own = [own_rows(t, 2, domain).requires_grad_(n) for t, n in zip(x, order, strict=True)]
        got = gather_rows_of_each(own, domain, [0, 4, 8], [0, 3], [5, 8])
        (got[0].sum() + 2 * got[1].sum()).backward()
        return [t.grad for t in own], order

    for (gradients, order), rows in zip(run_ranks(2, body), ([1, 1, 1, 2], [2, 1, 1, 1]), strict=True):
        for factor, gradient, needed in zip((1, 2), gradients, order, strict=True):
            assert (gradient is not None) == needed
            if needed:
                assert gradient[0, 0, :, 0].tolist() == [factor * row for row in rows]


@pytest.mark.parametrize("wrong", ["none", "rows", "dtype", "count"])
def test_several_that_do_not_agree_are_an_error_on_every_rank(wrong):
    def body(domain):
        rows = 5 if wrong == "rows" and domain.rank else 4
        dtype = torch.float64 if wrong == "dtype" and domain.rank else torch.float32
        count = {"none": 0, "count": 2 + domain.rank}.get(wrong, 2)
        given = [torch.zeros(1, 1, 4, 3), torch.zeros(1, 2, rows, 3, dtype=dtype), torch.zeros(1, 1, 4, 3)][:count]
        with pytest.raises((ValueError, RuntimeError), match="gather_rows") as error:
            gather_rows_of_each(given, domain, [0, 4, 8], [0, 3], [5, 8])
        return str(error.value)

    assert all(run_ranks(2, body))


def test_a_halo_of_several_tensors():
    x = [torch.randn(1, 2, 8, 3), torch.randn(1, 4, 5, 8, 6)]

    def body(domain):
        own = [own_rows(t, t.dim() - 2, domain) for t in x]
        sent = domain.messages_sent
        both = HaloExchange(2, domain=domain, rows=8)(*own)
        assert domain.messages_sent - sent == 1
        return both, [HaloExchange(2, domain=domain, rows=8)(t) for t in own]

    for both, each in run_ranks(2, body):
        assert all(torch.equal(a, b) for a, b in zip(both, each, strict=True))


def test_what_has_no_gradient_sends_none():
    """Masks, numbers and eight-bit floats: whatever rows of theirs meet in one, they are in no backward."""
    x = torch.randn(1, 1, 8, 3)
    others = [x > 0, (100 * x).long(), x.to(torch.float8_e4m3fn), (100 * x).abs().to(torch.uint16)]

    def body(domain):
        own = own_rows(x, 2, domain).requires_grad_()
        more = [own_rows(t, 2, domain) for t in others]
        got = gather_rows_of_each([own, *more], domain, [0, 4, 8], [-2, 2], [6, 10], "replicate")
        assert [t.requires_grad for t in got] == [True, False, False, False, False]
        alone = own.detach().clone().requires_grad_()
        gather_rows(alone, domain, [0, 4, 8], [-2, 2], [6, 10], "replicate").sum().backward()
        sent = domain.bytes_sent
        got[0].sum().backward()
        assert torch.equal(own.grad, alone.grad)
        return domain.bytes_sent - sent

    assert run_ranks(2, body) == [2 * 3 * 4] * 2


def test_tensors_of_two_devices_are_refused():
    def body(domain):
        given = [torch.zeros(1, 1, 4, 3), torch.zeros(1, 1, 4, 3, device="meta")]
        with pytest.raises(ValueError, match="expected all tensors on cpu, got one on meta"):
            gather_rows_of_each(given, domain, [0, 4, 8], [0, 3], [5, 8])

    run_ranks(2, body)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, d: gather_rows(x, d, [0, 4, 8], [0, 3], [5, 8]),
        lambda x, d: fold_rows_of_each([x], d, [0, 4, 8], [0, 3], [5, 8]),
        lambda x, d: HaloExchange(1, domain=d)(x),
        lambda x, d: HaloExchange(1, domain=d, rows=8)(x, x),
        lambda x, d: DomainParallelConv2d(nn.Conv2d(2, 2, 3, padding=1), domain=d)(x),
        lambda x, d: DomainParallelConvTranspose2d(nn.ConvTranspose2d(2, 2, 2, 2), domain=d)(x),
        lambda x, d: DomainParallelGroupNorm(nn.GroupNorm(1, 2), domain=d)(x),
        lambda x, d: DomainParallelInterpolate(size=(16, 6), domain=d)(x),
        lambda x, d: shard_tensor(x, manager=d),
        lambda x, d: gather_tensor(x, manager=d),
    ],
)
def test_a_domain_tensor_is_no_shard(call):
    """It has the whole grid's shape: taken for a shard its rows would be others."""

    def body(domain):
        x = graticule.shard(torch.randn(1, 2, 8, 3), domain)
        with pytest.raises(TypeError, match=f"got a DomainTensor.*rank {domain.rank} of 2"):
            call(x, domain)

    run_ranks(2, body)
