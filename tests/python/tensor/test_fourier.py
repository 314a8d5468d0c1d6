"""Fourier transforms of cut tensors."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tensor.comparison import Cut, compare

X = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _power(z: Tensor) -> Tensor:
    """Real, so that it can be compared to a bound, and different for every number."""
    return z.real + 2 * z.imag + z.abs().square()


FUNCTIONS: dict[str, Any] = {
    "rfft": lambda x: _power(torch.fft.rfft(x)),
    "rfft of rows": lambda x: _power(torch.fft.rfft(x, dim=-2)),
    "rfft2": lambda x: _power(torch.fft.rfft2(x)),
    "rfft longer": lambda x: _power(torch.fft.rfft(x, n=11)),
    "fft of rows": lambda x: _power(torch.fft.fft(x, dim=-2, norm="ortho")),
    "ifft": lambda x: _power(torch.fft.ifft(x)),
    "fft2": lambda x: _power(torch.fft.fft2(x, norm="forward")),
    "there and back": lambda x: torch.fft.irfft(torch.fft.rfft(x), n=x.shape[-1]),
    "there and back, rows": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=-2) * 2, n=x.shape[-2], dim=-2),
    "irfft2": lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=(9, 8)),
    "spectral convolution": lambda x: torch.fft.irfft(torch.fft.rfft(x)[..., :3] * (1 + 2j), n=8),
    "hfft": lambda x: torch.fft.hfft(x, dim=-1),
    "shifted": lambda x: torch.fft.fftshift(x, dim=(-2, -1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms_are_exact(name: str) -> None:
    compare(FUNCTIONS[name], Cut(X))
    compare(FUNCTIONS[name], Cut(X, 1), ranks=(3,))


def test_a_transform_of_all_dimensions_is_gathered() -> None:
    compare(lambda x: _power(torch.fft.fftn(x)), Cut(X), ranks=(2,), gathers=True)


def test_a_part_and_an_exponent() -> None:
    compare(lambda x: torch.frexp(x)[0], Cut(X), gradients=False)
