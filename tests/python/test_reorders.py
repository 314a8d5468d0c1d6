"""Large tensors that oneDNN reorders in a cut convolution: none but those that it reorders in the local one."""

import math
import re

import pytest
import torch
from torch import nn

from graticule import PeriodicConv2d
from matrix.layers import CUT
from support.device import DEVICE
from support.ranks import run_ranks

RANKS = 3
ROWS = 96  # of each
CPU = pytest.mark.skipif(
    DEVICE != "cpu" or not torch.backends.mkldnn.is_available(), reason="oneDNN is on the CPU alone"
)
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}

LAYERS = {
    "conv2d": (lambda: nn.Conv2d(16, 16, 3, padding=1), (1, 16, ROWS, 128)),
    "conv2d reflect": (lambda: nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"), (1, 16, ROWS, 128)),
    "conv2d circular": (lambda: nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"), (1, 16, ROWS, 128)),
    "conv2d k4 s2": (lambda: nn.Conv2d(16, 16, 4, 2, 1), (1, 16, ROWS, 128)),
    "conv3d": (lambda: nn.Conv3d(8, 8, 3, padding=1), (1, 8, 4, ROWS, 64)),
    "conv3d k=s": (lambda: nn.Conv3d(8, 16, (2, 4, 4), (2, 4, 4)), (1, 8, 4, ROWS, 64)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(16, 16, 4, 2, 1), (1, 16, ROWS, 64)),
    "periodic_conv2d": (lambda: PeriodicConv2d(16, 16, 3, 1), (1, 16, ROWS, 128)),
}


def reordered(capfd, least: int, body) -> int:
    """Tensors of `least` values or more that oneDNN brought into another order while `body` ran."""
    capfd.readouterr()
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        body()
    lines = [line for line in capfd.readouterr().out.splitlines() if ",exec,cpu,reorder," in line]
    sizes = [re.search(r",((?:\d+x)*\d+),[0-9.e+-]+$", line) for line in lines]
    assert all(sizes), lines
    return sum(math.prod(map(int, size[1].split("x"))) >= least for size in sizes if size)


@CPU
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_no_large_tensor_is_reordered_for_the_cut(name, channels_last, capfd):
    make, shape = LAYERS[name]
    dim = len(shape) - 2
    module = make()
    whole = torch.randn(shape[:dim] + (RANKS * ROWS,) + shape[dim + 1 :])
    if channels_last:
        whole = whole.contiguous(memory_format=FORMATS[whole.dim()])
        module = module.to(memory_format=FORMATS[whole.dim()])

    def trained(layer, x):
        y = layer(x)
        y.backward(torch.ones_like(y))

    shards = [shard.clone(memory_format=torch.preserve_format) for shard in whole.chunk(RANKS, dim)]
    layer = CUT[type(module)]

    def local():
        for shard in shards:
            trained(module, shard.requires_grad_())

    def cut():
        run_ranks(RANKS, lambda domain: trained(layer(module, -2, domain=domain), shards[domain.rank].requires_grad_()))

    least = shards[0].numel() // 2
    local()
    cut()
    assert reordered(capfd, least, cut) <= reordered(capfd, least, local)


@CPU
def test_what_is_reordered_is_counted(capfd):
    make, shape = LAYERS["conv2d"]
    x = torch.randn(shape)
    assert reordered(capfd, x.numel(), lambda: make()(x)) > 0  # oneDNN blocks contiguous channels
