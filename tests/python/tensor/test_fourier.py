"""Fourier transforms of cut tensors."""

from typing import Any

import pytest
import torch
from torch import Tensor

import graticule
from support.ranks import failures
from tensor.comparison import Cut, compare

X = torch.randn(2, 3, 9, 8, device="cpu", generator=torch.Generator().manual_seed(0), dtype=torch.float64)


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


SIGNAL = torch.randn(6, 57, device="cpu", generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WINDOW = torch.hann_window(12, dtype=torch.float64) + 0.1
SHORT_TIME: dict[str, Any] = {
    "plain": {"n_fft": 16, "window": torch.ones(16, dtype=torch.float64)},
    "hop": {"n_fft": 16, "hop_length": 5, "win_length": 12, "window": WINDOW},
    "from the first value": {"n_fft": 16, "win_length": 12, "window": WINDOW, "center": False},
    "aligned": {"n_fft": 16, "win_length": 12, "window": WINDOW, "center": False, "align_to_window": True},
    "replicated borders": {"n_fft": 16, "win_length": 12, "window": WINDOW, "pad_mode": "replicate"},
    "normalized, both sides": {
        "n_fft": 16,
        "win_length": 12,
        "window": WINDOW,
        "normalized": True,
        "onesided": False,
    },
    "odd": {"n_fft": 15, "hop_length": 4, "win_length": 12, "window": WINDOW},
}


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("name", SHORT_TIME)
def test_short_time_transforms(name: str, dim: int) -> None:
    options = SHORT_TIME[name]
    compare(lambda x: _power(torch.stft(x, return_complex=True, **options)), Cut(SIGNAL, dim))
    if dim == 1:
        compare(lambda x: x.stft(return_complex=True, **options).abs(), Cut(SIGNAL[0], 0), ranks=(3,))
    if options.get("center", True):
        back = {k: v for k, v in options.items() if k != "pad_mode"}
        compare(
            lambda x: torch.istft(
                torch.stft(x, return_complex=True, **options) * 2, length=57 if name == "hop" else None, **back
            ),
            Cut(SIGNAL, dim),
        )


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_short_time_transforms_back(dim: int) -> None:
    spectra = torch.view_as_complex(torch.randn(4, 9, 11, 2, dtype=torch.float64))
    window = torch.ones(16, dtype=torch.float64)
    compare(lambda z: torch.istft(z, 16, window=window), Cut(spectra, dim), gradients=False)
    compare(lambda z: torch.istft(z, 16, 5, window=window, length=60), Cut(spectra, dim), gradients=False)


def test_a_replicated_window_has_its_whole_gradient() -> None:
    def function(x: Tensor, window: Tensor) -> Tensor:
        return torch.stft(x, 16, win_length=12, window=window, return_complex=True).abs().square()

    compare(function, Cut(SIGNAL, 1), WINDOW)
    compare(function, Cut(SIGNAL, 0), WINDOW)


def test_wrong_short_time_arguments_are_errors() -> None:
    for options in ({"n_fft": 99}, {"n_fft": 16, "hop_length": 0}, {"n_fft": 16, "window": torch.ones(3)}):
        found = failures(2, lambda domain, o=options: torch.stft(graticule.shard(SIGNAL, domain, dim=1), **o))
        assert len(found) == 2, options


def test_a_complex_signal_gives_complex_numbers() -> None:
    signal = torch.randn(6, 57, dtype=torch.complex128)
    compare(lambda x: torch.stft(x, 16, window=torch.ones(16, dtype=torch.float64)).abs(), Cut(signal, 1))
