"""Reductions, scans, norms and losses of any shape, along any dimensions, on any cut."""

import hypothesis
import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from tensor.comparison import Cut, compare

REDUCTIONS = {
    "sum": lambda x, dims, keep: x.sum(dims, keep),
    "mean": lambda x, dims, keep: x.mean(dims, keep),
    "std": lambda x, dims, keep: x.std(dims, correction=0, keepdim=keep),
    "amax": lambda x, dims, keep: x.amax(dims, keep),
    "amin": lambda x, dims, keep: x.amin(dims, keep),
    "norm": lambda x, dims, keep: torch.linalg.vector_norm(x, 3, dims, keep),
    "logsumexp": lambda x, dims, keep: x.logsumexp(dims, keep),
    "any": lambda x, dims, keep: (x > 0.5).any(dims, keep),
    "nansum": lambda x, dims, keep: torch.nansum(torch.where(x > 1, torch.nan, x), dims, keep),
    "count": lambda x, dims, keep: torch.count_nonzero(x > 0, dims),
}
ALONG = {
    "softmax": lambda x, dim: x.softmax(dim),
    "log_softmax": lambda x, dim: x.log_softmax(dim),
    "cumsum": lambda x, dim: x.cumsum(dim),
    "logcumsumexp": lambda x, dim: x.logcumsumexp(dim).detach(),
    "cummax": lambda x, dim: [t.detach() for t in x.cummax(dim)],
    "max": lambda x, dim: x.max(dim)[0],
    "argmin": lambda x, dim: x.argmin(dim),
    "argmax of all": lambda x, dim: x.argmax(),
}
LOSSES = [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss]


@st.composite
def cut_tensors(draw, least_dims=1):
    shape = draw(st.lists(st.integers(1, 5), min_size=least_dims, max_size=4))
    dim = draw(st.integers(0, len(shape) - 1))
    shape[dim] = draw(st.integers(1, 9))
    # Halves, so that there are ties.
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    x = torch.randint(-6, 7, shape, device="cpu", generator=generator).double() / 2
    return x, dim


@st.composite
def cuts(draw, most=4):
    ranks = draw(st.integers(1, most))
    shares = draw(st.lists(st.integers(0, 100), min_size=ranks - 1, max_size=ranks - 1).map(sorted))

    def offsets_of(rows, size):
        return [0, *(rows * share // 100 for share in shares), rows]

    return ranks, offsets_of


def check(function, cut, *arguments, **options):
    compare(function, *arguments, ranks=[cut[0]], cuts=[cut[1]], **options)


def many(examples):
    return hypothesis.settings(max_examples=examples, deadline=None, derandomize=True)


@many(80)
@hypothesis.given(cut_tensors(), cuts(), st.sampled_from(sorted(REDUCTIONS)), st.data())
def test_reductions(given, cut, name, data):
    x, dim = given
    dims = data.draw(
        st.sets(st.integers(-x.dim(), x.dim() - 1), min_size=1).filter(
            lambda s: len({d % x.dim() for d in s}) == len(s)
        )
    )
    keep = data.draw(st.booleans())
    check(lambda t: REDUCTIONS[name](t, sorted(dims), keep), cut, Cut(x, dim))


@many(60)
@hypothesis.given(cut_tensors(), cuts(), st.sampled_from(sorted(ALONG)), st.data())
def test_along_a_dimension(given, cut, name, data):
    x, dim = given
    along = data.draw(st.integers(-x.dim(), x.dim() - 1))
    check(lambda t: ALONG[name](t, along), cut, Cut(x, dim), gathers=name == "max")


@many(40)
@hypothesis.given(
    cut_tensors(), cuts(), st.sampled_from(LOSSES), st.sampled_from(["none", "mean", "sum"]), st.booleans()
)
def test_losses(given, cut, loss, reduction, whole):
    x, dim = given
    target = x.flip(0) * 0.7
    check(lambda t, y: loss(t, y, reduction=reduction), cut, Cut(x, dim), target if whole else Cut(target, dim))


@many(60)
@hypothesis.given(cut_tensors(3), cuts(), st.sampled_from(["group", "layer", "batch"]), st.booleans(), st.data())
def test_norms(given, cut, name, affine, data):
    x, dim = given
    x = x + torch.linspace(0, 1, x.numel(), dtype=torch.float64).view(x.shape)
    hypothesis.assume(x[:, 0].numel() > 1 and x[0].numel() > x.shape[1])
    if name == "layer":
        shape = x.shape[-data.draw(st.integers(1, x.dim())) :]
        parameters = [torch.randn(shape, dtype=torch.float64)] * 2 if affine else []
        hypothesis.assume(torch.Size(shape).numel() > 1)
        check(lambda t, *p: F.layer_norm(t, shape, *p, eps=0.1), cut, Cut(x, dim), *parameters)
        return
    parameters = [torch.randn(x.shape[1], dtype=torch.float64)] * 2 if affine else []
    if name == "batch":
        check(lambda t, *p: F.batch_norm(t, None, None, *p, training=True, eps=0.1), cut, Cut(x, dim), *parameters)
        return
    groups = data.draw(st.sampled_from([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0]))
    check(lambda t, *p: F.group_norm(t, groups, *p, eps=0.1), cut, Cut(x, dim), *parameters, gathers=dim == 1)
