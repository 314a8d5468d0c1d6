"""Interpolation of what is not finite (fields with NaN over land), and of such gradients, as uncut."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from graticule import from_local
from graticule.domain_parallel import DomainParallelInterpolate
from support.ranks import run_ranks

INPUT = {1: (9,), 2: (9, 6), 3: (5, 6, 4)}
SIZES = {
    1: [4, 9, 17, 18],
    2: [(9, 6), (18, 12), (18, 6), (9, 12), (4, 3), (4, 12), (9, 3), (13, 11)],
    3: [(5, 6, 4), (10, 12, 8), (5, 12, 8), (10, 6, 4), (3, 6, 7)],
}
FACTORS = [1.0, 1.03, 2.0, 0.6, 1.7]
WEIGHTED = {1: ["linear"], 2: ["bilinear", "bicubic"], 3: ["trilinear"]}
CUTS = [(0, 1), (0, 0.4, 1), (0, 0, 1), (0, 0.1, 0.8, 1), (0, 0.2, 0.2, 0.9, 1)]  # shares of the rows


def options(dims):
    for mode in WEIGHTED[dims]:
        for align, antialias in itertools.product((False, True), (False, True) if dims == 2 else (False,)):
            yield {"mode": mode, "align_corners": align, "antialias": antialias}
    for mode in ("nearest", "nearest-exact", "area"):
        yield {"mode": mode}


def cases(dims):
    for given in options(dims):
        for size in SIZES[dims]:
            yield {"size": size, **given}
        for factor in FACTORS:
            yield {"scale_factor": factor, **given}
            if dims == 2:
                yield {"scale_factor": (1.0, factor), **given}


def field(shape, seed):
    """Random values, and what is not finite: alone, beside another, at the borders and within."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    flat = x.flatten(2)
    middle = flat.shape[-1] // 2
    flat[0, 0, middle] = torch.nan
    flat[0, 1, 0] = torch.inf
    flat[0, 2, middle] = torch.inf
    flat[0, 3, -1] = -torch.inf
    flat[1, 0, [middle, middle - 1]] = torch.tensor([torch.inf, -torch.inf], dtype=x.dtype)
    flat[1, 1, [0, -1]] = torch.nan
    flat[1, 2, ::3] = -torch.inf
    return flat.view(shape)


def laid_out(x, last):
    if not last or x.dim() == 3:
        return x.clone(memory_format=torch.contiguous_format)
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d).clone()


def uncut(x, last, **given):
    x = laid_out(x, last).requires_grad_()
    y = F.interpolate(x, **given)
    g = field(y.shape, 2)
    y.backward(laid_out(g, last))
    return y.detach(), x.grad, g


def assert_same(got, expected, about):
    for part, a, b in zip(("output", "gradient"), got, expected, strict=False):
        finite = b.isfinite()
        wrong = (a.isfinite() != finite).sum().item(), (a.isnan() != b.isnan()).sum().item()
        assert wrong == (0, 0), f"{part} of {about}: finite or not, and NaN or not, otherwise in {wrong} values"
        assert torch.equal(a[b.isinf()], b[b.isinf()]), f"{part} of {about}: infinities of another sign"
        assert torch.allclose(a[finite], b[finite], rtol=1e-11, atol=1e-11), f"{part} of {about}"


def rows_of(cut, n):
    return [round(share * n) for share in cut]


def own(t, dim, offsets, rank, last):
    return laid_out(t.narrow(dim, offsets[rank], offsets[rank + 1] - offsets[rank]), last)


@pytest.mark.parametrize("face", ["layer", "tensor"])
@pytest.mark.parametrize(
    ("dims", "dim", "last"),
    # Of one dimension there is no channels_last.
    [(1, 2, False), *((dims, dim, last) for dims in (2, 3) for dim in range(2, 2 + dims) for last in (False, True))],
)
def test_spreads_as_uncut(dims, dim, last, face):
    x = field((2, 4, *INPUT[dims]), 1)
    given = list(cases(dims))
    serial = [uncut(x, last, **case) for case in given]
    cuts = CUTS if face == "layer" else CUTS[1:2]
    for i, cut in enumerate(cuts):
        ranks = len(cut) - 1
        # Each case on two of the cuts, a third of them of a DomainTensor.
        chosen = (
            [k for k in range(len(given)) if (k + i) % len(cuts) < 2] if face == "layer" else range(i, len(given), 3)
        )
        before = rows_of(cut, x.shape[dim])

        def body(domain, before=before, chosen=chosen):
            return [one_case(domain, before, given[k], serial[k]) for k in chosen]

        def one_case(domain, before, case, expected):
            part = own(x, dim, before, domain.rank, last).requires_grad_()
            if face == "layer":
                layer = DomainParallelInterpolate(shard_dim=dim - x.dim(), domain=domain, rows=before, **case)
                y = layer(part)
            else:
                y = F.interpolate(from_local(part, domain, dim), **case)
            total = expected[0].shape[dim]
            after = before if total == x.shape[dim] else [r * total // domain.size for r in range(domain.size + 1)]
            g = own(expected[2], dim, after, domain.rank, last)
            if face == "layer":
                y.backward(g)
                return y.detach(), part.grad
            y.backward(from_local(g, domain, dim))
            return y.detach().local, part.grad

        for k, parts in zip(chosen, zip(*run_ranks(ranks, body), strict=True), strict=True):
            got = [torch.cat(list(part), dim) for part in zip(*parts, strict=True)]
            assert_same(got, serial[k], f"{given[k]} cut in {dim} over {before}")
