"""Ops that functions come to on a GPU alone, called by name on the CPU: their rules call no kernel of theirs."""

import pytest
import torch
from torch.nn import functional as F

from graticule import DomainTensor
from support.device import DEVICE
from tensor.comparison import Cut, compare

aten = torch.ops.aten
torch.manual_seed(0)
X = torch.randn(2, 4, 7, 5, dtype=torch.float64)
CHANNELS = torch.rand(2, 4, dtype=torch.float64) + 0.5


def either(of_gpu, function):
    """The op on cut tensors, the function that comes to it on whole ones."""

    def call(*tensors):
        return (of_gpu if any(isinstance(t, DomainTensor) for t in tensors) else function)(*tensors)

    return call


@pytest.mark.parametrize("dim", [-2, 0, 1])
def test_batch_norm(dim):
    def cudnn(x, weight, bias):
        mean, variance = torch.zeros(4).to(x), torch.ones(4).to(x)
        return aten.cudnn_batch_norm(x, weight, bias, mean, variance, True, 0.1, 1e-5)[0], mean, variance

    def uncut(x, weight, bias):
        mean, variance = torch.zeros(4).to(x), torch.ones(4).to(x)
        return F.batch_norm(x, mean, variance, weight, bias, True, 0.1), mean, variance

    compare(either(cudnn, uncut), Cut(X, dim), *CHANNELS)


def heads(rows):
    return torch.randn(2, 4, rows, 6, dtype=torch.float64)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dim", [-2, 0, 1])
def test_attention_by_flash(dim, causal):
    compare(
        either(
            lambda *qkv: aten._scaled_dot_product_flash_attention(*qkv, is_causal=causal)[0],
            lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=causal),
        ),
        *[Cut(heads(7), dim) for _ in range(3)],
    )


BIAS = torch.randn(2, 4, 7, 9, dtype=torch.float64)


@pytest.mark.parametrize("bias", [None, BIAS], ids=["plain", "bias"])
@pytest.mark.parametrize("dim", [-2, 0, 1])
def test_attention_by_efficient_kernels(dim, bias):
    given = [Cut(heads(7), dim), Cut(heads(9), dim), Cut(heads(9), dim), *([] if bias is None else [bias])]
    compare(
        either(
            lambda q, k, v, b=None: aten._scaled_dot_product_efficient_attention(q, k, v, b, True, scale=0.3)[0],
            lambda q, k, v, b=None: F.scaled_dot_product_attention(q, k, v, b, scale=0.3),
        ),
        *given,
    )


@pytest.mark.parametrize("dim", [-2, 0, 1])
def test_attention_by_cudnn(dim):
    bias = BIAS.to(DEVICE)
    compare(
        either(
            lambda q, k, v: aten._scaled_dot_product_cudnn_attention(q, k, v, bias, True)[0],
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, bias),
        ),
        *[Cut(heads(rows), dim) for rows in (7, 9, 9)],
    )


@pytest.mark.skipif(DEVICE != "cpu", reason="cuDNN itself samples the parts, in float32")
def test_grid_sample_comes_apart_as_its_op_does():
    """Its forward calls cuDNN on each rank's part; its backward is ATen's."""
    grid = torch.rand(2, 6, 3, 2, dtype=torch.float64) * 2.2 - 1.1
    gradient = torch.randn(2, 4, 6, 3, dtype=torch.float64)

    def uncut(x, grid, gradient):
        return aten.grid_sampler_2d_backward(gradient, x, grid, 0, 0, True, [True, True])

    compare(
        either(lambda x, grid, g: aten.cudnn_grid_sampler_backward(x, grid, g), uncut),
        Cut(X), Cut(grid, 1), Cut(gradient, 2), gradients=False, gathers=True,
    )  # fmt: skip


def test_rms_norm_gathers_nothing():
    weight = torch.rand(5, dtype=torch.float64)
    compare(lambda x, w: aten._fused_rms_norm(x, [5], w, 1e-5)[0], Cut(X), weight)
    half = X.bfloat16()
    compare(lambda x, w: aten._fused_rms_norm(x, [5], w, 1e-5)[0], Cut(half), weight.bfloat16(), bound=2e-2)
