"""What a profiler is told of the way that a convolution took."""

import pytest
import torch
from torch import nn

from graticule.domain_parallel import DomainParallelConv2d
from support.ranks import run_ranks

COPY = "whole windows: a copy of the shard costs less than strips"


def events(conv, columns, offsets):
    """Those of rank 0: (forward, backward), a padded copy's before them."""

    def body(domain):
        begin, end = offsets[domain.rank : domain.rank + 2]
        x = torch.randn(1, conv.in_channels, end - begin, columns).requires_grad_()
        layer = DomainParallelConv2d(conv, domain=domain, rows=offsets)
        if domain.rank:
            layer(x).sum().backward()
            return []
        with torch.autograd.profiler.profile() as profile:
            layer(x).sum().backward()
        names = [event.name for event in profile.function_events]
        return [name.removeprefix("DomainParallelConv2d ") for name in names if "ward: " in name]

    return run_ranks(len(offsets) - 1, body)[0]


def conv(channels, **options):
    return nn.Conv2d(channels, channels, **{"kernel_size": 3, "padding": 1, **options})


@pytest.mark.parametrize(
    ("layer", "columns", "offsets", "reason"),
    [
        (conv(64), 256, [0, 64, 128], "in place"),
        (conv(8), 32, [0, 16, 32], COPY),
        (conv(512, kernel_size=4, stride=2), 64, [0, 20, 40], COPY),
        (conv(4), 4, [0, 12, 24], "whole windows: the shard is small"),
        (conv(4, stride=3), 64, [0, 31, 60], "whole windows: they do not line up with the shard"),
        (conv(4), 64, [0, 0, 60], "whole windows: a shard of no rows"),
    ],
)
def test_the_reason_is_told(layer, columns, offsets, reason):
    forward, backward = events(layer, columns, offsets)
    assert forward == f"forward: {reason}"
    assert backward == f"backward: {reason}"


def test_a_padded_copy_is_told():
    copy, forward, _ = events(conv(8, padding_mode="circular"), 32, [0, 16, 32])
    assert copy.startswith("forward: a padded copy: rows beyond the grid")
    assert forward == "forward: whole windows: they do not line up with the shard"  # nor do padded rows
    copy, *_ = events(conv(8, kernel_size=4, padding="same"), 32, [0, 16, 32])
    assert copy == "forward: a padded copy: more zeros on one side than on the other"


def test_a_path_that_was_asked_for_is_told():
    torch.ops.graticule.force_convolution_path("whole_windows")
    try:
        assert events(conv(64), 256, [0, 64, 128])[0] == "forward: whole windows: as asked for"
    finally:
        torch.ops.graticule.force_convolution_path("automatic")
