"""Nearest interpolation by a factor that leaves a dimension as long as it was.

ATen has two kernels that differ there, and takes one by the number of channels, the memory format and the sizes of all
dimensions of the output: of the whole tensor, whatever those of a shard are.
"""

import itertools

import pytest
import torch
from torch.nn import functional as F

import graticule
from graticule.domain_parallel import DomainParallelInterpolate, HaloExchange
from support.device import DEVICE
from support.ranks import failures, own_rows, relative, run_ranks

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="a clear error on a GPU: test_upsampling and test_errors")

# Rows and columns of the output are up to 128 together, or more of them; by factors that keep both, one or none.
PLANES = [((64, 64), 1.01), ((64, 65), 1.01), ((100, 40), 1.005), ((30, 60), 1.01), ((60, 100), (1.01, 2.0))] + [
    ((60, 100), (2.0, 1.004)),
    ((60, 100), (1.3, 0.7)),
    ((20, 140), 1.004),
    ((7, 1), (1.1, 1.0)),
    ((1, 9), (1.5, 1.1)),
]
FORMATS = {
    4: [torch.contiguous_format, torch.channels_last],
    5: [torch.contiguous_format, torch.channels_last_3d],
}


def expect_uncut(x, factors, dim, ranks, mode="nearest"):
    """The layer's and a DomainTensor's results, bit for bit, and their gradients, which add up in another order."""
    bound = 4 * torch.finfo(x.dtype).eps
    whole = x.clone().requires_grad_()
    y = F.interpolate(whole, scale_factor=factors, mode=mode)
    g = torch.randn_like(y)
    y.backward(g)

    def body(domain):
        layer = DomainParallelInterpolate(None, mode, dim - x.dim(), scale_factor=factors, domain=domain)
        own = own_rows(x, dim, domain).clone(memory_format=torch.preserve_format).requires_grad_()
        part = layer(own)
        part.backward(own_rows(g, dim, domain))
        cut = graticule.shard(x.clone(), domain, dim=dim).requires_grad_()
        result = F.interpolate(cut, scale_factor=factors, mode=mode)
        (result * g).sum().backward()
        return part.detach(), own.grad, result.detach().gather(), cut.grad.gather()

    parts, gradients, results, whole_gradients = zip(*run_ranks(ranks, body), strict=True)
    what = f"{tuple(x.shape)} by {factors}, {mode}, cut along {dim}, strides {x.stride()}"
    assert torch.equal(torch.cat(parts, dim), y), what
    assert relative(torch.cat(gradients, dim), whole.grad) <= bound, what
    assert all(torch.equal(result, y) for result in results), f"DomainTensor: {what}"
    assert all(relative(gradient, whole.grad) <= bound for gradient in whole_gradients), f"DomainTensor: {what}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_planes(mode, dtype):
    for (sizes, factors), channels, layout, dim in itertools.product(PLANES, (1, 3, 4), FORMATS[4], (2, 3)):
        x = torch.randn(2, channels, *sizes).to(dtype).contiguous(memory_format=layout)
        expect_uncut(x, factors, dim, 3 if dim == 2 else 2, mode)


def test_lines_and_volumes():
    for length, factor in itertools.product((9, 200), (1.004, 1.02)):
        expect_uncut(torch.randn(2, 3, length), factor, 2, 2)
    for channels, layout, dim in itertools.product((1, 3, 4), FORMATS[5], (2, 3, 4)):
        x = torch.randn(1, channels, 8, 9, 7).contiguous(memory_format=layout)
        for factors in (1.02, (1.02, 2.0, 1.1), (0.5, 1.05, 1.0)):
            expect_uncut(x, factors, dim, 2)


def test_a_large_plane():
    x = torch.randn(1, 3, 721, 1440).contiguous(memory_format=torch.channels_last)
    expect_uncut(x, 1.001, 2, 2)


def test_ranks_whose_formats_ask_for_other_rows():
    """Which of the two is the uncut tensor's, no rank can tell: one sends a row that the other does not take."""
    x = torch.randn(1, 8, 90, 90)

    def body(domain):
        own = own_rows(x, 2, domain)
        if domain.rank == 1:
            own = own.contiguous(memory_format=torch.channels_last)
        y = DomainParallelInterpolate(None, "nearest", scale_factor=1.01, domain=domain, rows=90)(own)
        HaloExchange(1, domain=domain, rows=90)(y)

    assert "the ranks do not make the same calls" in str(failures(2, body)[1])
