"""The matrix catches deliberate defects: a comparison that cannot fail proves nothing."""

import pytest
import torch
import torch.nn.functional as F

from graticule import gather_rows
from matrix.compare import run_case

OPS = torch.ops.graticule
COMMON = {"ranks": 3, "rows": 13, "layout": "contiguous", "call": "plain"}
CONV = COMMON | {
    "dims": 2,
    "kernel": 3,
    "stride": 1,
    "dilation": 1,
    "padding": 1,
    "padding_mode": "zeros",
    "groups": 1,
    "bias": True,
}
NORM = COMMON | {"dims": 2, "groups": 2, "affine": True}
RESIZE = COMMON | {
    "mode": ("bilinear", 2),
    "target": 16,
    "align_corners": False,
    "recompute": None,
    "across": "few",
    "antialias": False,
}


def assert_numbers_are_wrong(verdict):
    assert verdict.kind == "wrong" and ": error " in verdict.reason, verdict


DTYPES = ["float64", "float32", "bfloat16"]


def extended(x, offsets, dim, group, shift=0):
    """The rank's rows and one more on either side; `shift` moves those of all ranks but the first by so many rows."""
    begins = [first - 1 + (shift if first > 0 else 0) for first in offsets[:-1]]
    ends = [end + 1 + (shift if first > 0 else 0) for first, end in zip(offsets[:-1], offsets[1:], strict=True)]
    return gather_rows(x, group, offsets, begins, ends, "zeros", dim)


def conv_with(defect):
    """A cut 3-row convolution as anyone would write it, with a defect."""

    def conv(x, weight, bias, stride, before, after, mode, dilation, groups, offsets, out, dim, group, layer):
        across = list(before)
        across[dim - 2] = 0
        rows = extended(x, offsets, dim, group, shift=1 if defect == "shifted halo" else 0)
        last = rows.shape[dim] - 1
        first_strip, inner, last_strip = (rows.narrow(dim, *at) for at in [(0, 1), (1, last - 1), (last, 1)])
        if defect == "swapped strips":
            first_strip, last_strip = last_strip, first_strip
        if defect == "missing seam":
            first_strip, last_strip = torch.zeros_like(first_strip), torch.zeros_like(last_strip)
        if defect == "no gradient to the neighbour":
            first_strip, last_strip = first_strip.detach(), last_strip.detach()
        if defect == "strip of a tenth of a percent too much":
            last_strip = last_strip * 1.001
        rows = torch.cat([first_strip, inner, last_strip], dim)
        call = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.dim()]
        y = call(rows, weight, bias, stride, across, dilation, groups)
        if defect == "missing weight-gradient term":
            frozen = call(rows, weight.detach(), bias, stride, across, dilation, groups)
            y = torch.cat([frozen.narrow(dim, 0, 1), y.narrow(dim, 1, y.shape[dim] - 1)], dim)
        if defect == "bias gradient counted twice" and bias is not None:
            shape = [1, -1] + [1] * (x.dim() - 2)
            y = y + (bias - bias.detach()).reshape(shape)
        if defect == "rounding to half a type":
            y = y.to({torch.float64: torch.float32, torch.float32: torch.bfloat16}.get(y.dtype, y.dtype)).to(y.dtype)
        return y

    return conv


CONV_DEFECTS = [
    "shifted halo",
    "swapped strips",
    "missing seam",
    "no gradient to the neighbour",
    "strip of a tenth of a percent too much",
    "missing weight-gradient term",
    "bias gradient counted twice",
    "rounding to half a type",
]
# Too small to see in eight bits.
BELOW_BFLOAT16 = {"strip of a tenth of a percent too much", "rounding to half a type"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_convolution_passes(dtype, monkeypatch):
    monkeypatch.setattr(OPS, "conv", conv_with(None))
    verdict = run_case("conv", CONV | {"dtype": dtype})
    assert verdict.kind == "exact", verdict


@pytest.mark.parametrize(
    "defect,dtype", [(d, t) for d in CONV_DEFECTS for t in DTYPES if t != "bfloat16" or d not in BELOW_BFLOAT16]
)
def test_a_wrong_convolution_is_caught(defect, dtype, monkeypatch):
    monkeypatch.setattr(OPS, "conv", conv_with(defect))
    assert_numbers_are_wrong(run_case("conv", CONV | {"dtype": dtype}))


def norm_with(defect):
    real = OPS.group_norm

    def norm(x, groups, weight, bias, eps, offsets, dim, group, layer):
        if defect == "local statistics":
            return F.group_norm(x, groups, weight, bias, eps)
        if defect == "statistics without gradient":
            y = real(x.detach(), groups, weight, bias, eps, offsets, dim, group, layer)
            local = F.group_norm(x, groups, weight, bias, eps)
            return local + (y - local).detach()
        if defect == "another eps":
            eps = eps * 2
        if defect == "affine twice":
            return real(x, groups, weight, bias, eps, offsets, dim, group, layer) * weight.reshape(1, -1, 1, 1)
        return real(x, groups, weight, bias, eps, offsets, dim, group, layer)

    return norm


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("defect", ["local statistics", "statistics without gradient", "affine twice"])
def test_a_wrong_norm_is_caught(defect, dtype, monkeypatch):
    monkeypatch.setattr(OPS, "group_norm", norm_with(defect))
    assert_numbers_are_wrong(run_case("group_norm", NORM | {"dtype": dtype}))


def test_another_eps_is_caught(monkeypatch):
    monkeypatch.setattr(OPS, "group_norm", norm_with("another eps"))
    assert_numbers_are_wrong(run_case("group_norm", NORM | {"dtype": "float64"}))


def resize_with(defect):
    real = OPS.interpolate

    def resize(x, size, scale, mode, align, recompute, antialias, offsets, out, dim, group, layer):
        if defect == "another rule for the weights":
            align = not align
        y = real(x, size, scale, mode, align, recompute, antialias, offsets, out, dim, group, layer)
        if defect == "one weight a millionth off":
            factor = torch.ones(y.shape[dim], dtype=y.dtype)
            factor[0] += 1e-6 if y.dtype == torch.float64 else 1e-4
            y = y * factor.reshape([-1 if d == dim else 1 for d in range(y.dim())])
        if defect == "rows in another order":
            y = y.flip(dim)
        if defect == "no gradient":
            y = y.detach() + 0 * x.sum()
        return y

    return resize


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize(
    "defect", ["another rule for the weights", "one weight a millionth off", "rows in another order", "no gradient"]
)
def test_a_wrong_interpolation_is_caught(defect, dtype, monkeypatch):
    monkeypatch.setattr(OPS, "interpolate", resize_with(defect))
    assert_numbers_are_wrong(run_case("interpolate", RESIZE | {"dtype": dtype}))


def changed(change):
    real = OPS.conv

    def conv(*args):
        return change(real(*args))

    return conv


@pytest.mark.parametrize(
    "change,word",
    [
        (lambda y: y.double() if y.dtype == torch.float32 else y.float(), "float"),
        (lambda y: y.narrow(2, 0, max(y.shape[2] - 1, 0)), "size"),
        (lambda y: y.contiguous(memory_format=torch.channels_last), "memory format"),
    ],
    ids=["dtype", "shape", "memory format"],
)
def test_what_is_more_than_numbers_is_caught(change, word, monkeypatch):
    monkeypatch.setattr(OPS, "conv", changed(change))
    verdict = run_case("conv", CONV | {"dtype": "float32"})
    assert verdict.kind == "wrong" and word in verdict.reason, verdict


def test_a_layer_that_refuses_on_one_rank_only_is_caught(monkeypatch):
    real = OPS.conv

    def conv(x, *args):
        if x.shape[2] == 5:  # the last of 4, 4, 5 rows
            raise ValueError("only here")
        return real(x, *args)

    monkeypatch.setenv("GRATICULE_TIMEOUT", "1")
    monkeypatch.setattr(OPS, "conv", conv)
    assert run_case("conv", CONV | {"dtype": "float64"}).kind == "wrong"


def test_a_cut_layer_that_accepts_what_torch_refuses_is_caught(monkeypatch):
    def conv(x, weight, *args):
        return x.new_zeros(2, weight.shape[0], 1, 1)

    monkeypatch.setattr(OPS, "conv", conv)
    case = CONV | {"dtype": "float64", "kernel": 7, "rows": 2, "padding": 0}
    verdict = run_case("conv", case)
    assert verdict.kind == "wrong" and "the serial layer refuses" in verdict.reason
