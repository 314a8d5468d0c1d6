"""What a profiler is told of the way that a layer took."""

import pytest
import torch
from torch import nn

import graticule
from graticule.domain_parallel import DomainParallelConv2d, DomainParallelGroupNorm, DomainParallelInterpolate
from support.ranks import run_ranks

COPY = "whole windows: a copy of the shard costs less than strips"


def told(ranks, layer, make_call):
    """What rank 0's profiler is told of `layer`, without its name, while the call runs that make_call(domain) gives."""

    def body(domain):
        call = make_call(domain)
        if domain.rank:
            call()
            return []
        with torch.autograd.profiler.profile() as profile:
            call()
        names = [event.name for event in profile.function_events]
        return [name.removeprefix(f"{layer} ") for name in names if name.startswith(layer) and "ward: " in name]

    return run_ranks(ranks, body)[0]


def trained(module, x, make_gradient=torch.ones_like):
    """Forward and backward."""

    def call():
        y = module(x)
        y.backward(make_gradient(y))

    return call


def events(conv, columns, offsets):
    """Of a convolution: (forward, backward), a padded copy's before them."""

    def make_call(domain):
        begin, end = offsets[domain.rank : domain.rank + 2]
        x = torch.randn(1, conv.in_channels, end - begin, columns).requires_grad_()
        return trained(DomainParallelConv2d(conv, domain=domain, rows=offsets), x)

    return told(len(offsets) - 1, "DomainParallelConv2d", make_call)


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
    copy, forward, _ = events(conv(8, padding_mode="circular", padding=2), 32, [0, 16, 32])
    assert copy == "forward: a padded copy: the windows do not go round the grid: rows / stride is not the output"
    assert forward == "forward: whole windows: they do not line up with the shard"  # nor do padded rows
    copy, *_ = events(conv(8, padding_mode="reflect", padding=2), 32, [0, 30, 32])
    assert copy == "forward: a padded copy: rows beyond the grid are not all of the rank at that end"
    copy, *_ = events(conv(8, kernel_size=4, padding="same"), 32, [0, 16, 32])
    assert copy == "forward: a padded copy: more zeros on one side than on the other"


def test_a_path_that_was_asked_for_is_told():
    torch.ops.graticule.force_convolution_path("whole_windows")
    try:
        assert events(conv(64), 256, [0, 64, 128])[0] == "forward: whole windows: as asked for"
    finally:
        torch.ops.graticule.force_convolution_path("automatic")


PASSES = "one pass, one collective, one pass"


def shard_of(domain, **options):
    return torch.randn(2, 4, 12 // domain.size, 32, **options)


@pytest.mark.parametrize(
    ("make_input", "make_gradient", "forward", "backward"),
    [
        (shard_of, torch.ones_like, PASSES, PASSES),
        (
            lambda domain: shard_of(domain).transpose(2, 3).contiguous().transpose(2, 3),
            torch.ones_like,
            f"a dense copy, {PASSES}",
            f"a dense copy, {PASSES}",
        ),
        (shard_of, lambda y: torch.ones(()).expand_as(y), PASSES, f"a dense copy, {PASSES}"),
    ],
)
def test_the_passes_of_a_group_norm_are_told(make_input, make_gradient, forward, backward):
    def make_call(domain):
        layer = DomainParallelGroupNorm(nn.GroupNorm(2, 4), domain=domain, rows=12)
        return trained(layer, make_input(domain).requires_grad_(), make_gradient)

    assert told(2, "DomainParallelGroupNorm", make_call) == [f"forward: {forward}", f"backward: {backward}"]


def test_a_group_norm_whose_input_needs_no_gradient_takes_one_pass_less():
    def make_call(domain):
        return trained(DomainParallelGroupNorm(nn.GroupNorm(2, 4), domain=domain, rows=12), shard_of(domain))

    _, backward = told(3, "DomainParallelGroupNorm", make_call)
    assert backward == "backward: one pass, one collective"


def test_the_passes_of_a_batch_norm_are_told():
    def make_call(domain):
        x = graticule.shard(torch.randn(2, 4, 12, 32), domain, dim=-2).requires_grad_()
        return trained(nn.BatchNorm2d(4), x)

    assert told(2, "batch_norm", make_call) == [f"forward: {PASSES}", f"backward: {PASSES}"]


ROWS_FIRST, COLUMNS_FIRST = "one pass of rows, then columns", "one pass of columns, then rows"
AT_ONCE, ROWS_ALONE = "one pass of rows and columns at once", "one pass of rows alone"


@pytest.mark.parametrize(
    ("mode", "size", "layout", "forward", "backward"),
    [
        ("bilinear", (23, 64), torch.contiguous_format, COLUMNS_FIRST, ROWS_FIRST),
        ("bilinear", (6, 16), torch.contiguous_format, ROWS_FIRST, COLUMNS_FIRST),
        ("bilinear", (6, 16), torch.channels_last, AT_ONCE, AT_ONCE),
        ("nearest", (23, 32), torch.contiguous_format, ROWS_ALONE, ROWS_ALONE),
    ],
)
def test_the_order_of_an_interpolation_is_told(mode, size, layout, forward, backward):
    def make_call(domain):
        x = shard_of(domain).contiguous(memory_format=layout).requires_grad_()
        return trained(DomainParallelInterpolate(size, mode=mode, domain=domain, rows=12), x)

    assert told(2, "DomainParallelInterpolate", make_call) == [f"forward: {forward}", f"backward: {backward}"]


def test_an_interpolation_of_short_rows_and_of_a_gradient_that_is_not_dense_is_told():
    def make_call(domain):
        x = torch.randn(1, 3, 12 // domain.size, 4, requires_grad=True)
        layer = DomainParallelInterpolate((24, 4), mode="nearest", domain=domain, rows=12)
        return trained(layer, x, lambda y: torch.ones(()).expand_as(y))

    lines = f"{ROWS_ALONE}, as lines"
    assert told(2, "DomainParallelInterpolate", make_call) == [f"forward: {lines}", f"backward: a dense copy, {lines}"]


@pytest.mark.parametrize(("halo", "what"), [(1, "one exchange"), (0, "no message")])
def test_a_plain_exchange_is_told(halo, what):
    offsets = [0, 4, 8, 12]
    begins, ends = [max(b - halo, 0) for b in offsets[:-1]], [min(e + halo, 12) for e in offsets[1:]]

    def make_call(domain):
        def gather(x):
            return graticule.gather_rows(x, domain, offsets, begins, ends)

        return trained(gather, shard_of(domain, requires_grad=True))

    assert told(3, "gather_rows", make_call) == [
        f"forward: {what}, a copy of the rows",
        f"backward: {what}, a sum of the rows",
    ]
