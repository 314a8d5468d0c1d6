"""Short-time Fourier transforms, above autograd: PyTorch's own change the order of dimensions in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graticule.tensor import functions
from graticule.tensor.domain_tensor import DomainTensor


def _without_values(t: Any) -> Any:
    return torch.empty(t.shape, dtype=t.dtype, device="meta") if isinstance(t, Tensor) else t


def _whole_window(window: Any, win_length: int | None, n_fft: int, like: Any) -> Any:
    """Of n_fft values, the given ones in the middle."""
    length = win_length or n_fft
    if window is None:
        window = torch.ones(length, dtype=like.dtype.to_real(), device=like.device)
    before = (n_fft - length) // 2
    return F.pad(window, (before, n_fft - length - before))


def stft(
    input: Any,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Tensor:
    """What torch.stft gives: windows of the signal, each transformed."""
    options = (center, pad_mode, normalized, onesided, return_complex, align_to_window)
    if not isinstance(input, DomainTensor):
        return torch.stft(input, n_fft, hop_length, win_length, window, *options)
    # Errors are PyTorch's own.
    expected = torch.stft(_without_values(input), n_fft, hop_length, win_length, _without_values(window), *options)
    hop, length = hop_length or n_fft // 4, win_length or n_fft
    signal: Any = input if input.dim() == 2 else input.unsqueeze(0)
    if center:
        signal = F.pad(signal.unsqueeze(1), (n_fft // 2, n_fft // 2), mode=pad_mode).squeeze(1)
    if align_to_window:
        before = (n_fft - length) // 2
        signal = F.pad(signal, (before, n_fft - length - before))
    frames = signal.unfold(-1, n_fft, hop) * _whole_window(window, length, n_fft, input)
    is_half = not frames.is_complex() and expected.shape[input.dim() - 1] == n_fft // 2 + 1
    transform = torch.fft.rfft if is_half else torch.fft.fft
    result = transform(frames, norm="ortho" if normalized else "backward").transpose(-1, -2)
    result = result if input.dim() == 2 else result.squeeze(0)
    return result if expected.is_complex() else torch.view_as_real(result)


def _added_up(frames: Any, hop: int) -> Any:
    """Frames (B, T, n), each `hop` values behind the one before, added up: (B, n + hop * (T - 1))."""
    if frames.is_complex():
        return torch.complex(_added_up(frames.real, hop), _added_up(frames.imag, hop))
    batch, count, length = frames.shape
    size = length + hop * (count - 1)
    columns = frames.transpose(1, 2)
    return F.fold(columns, (1, size), (1, length), stride=(1, hop)).reshape(batch, size)


def istft(
    input: Any,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """What torch.istft gives: each window transformed back, and all added up."""
    options = (center, normalized, onesided, length, return_complex)
    if not isinstance(input, DomainTensor):
        return torch.istft(input, n_fft, hop_length, win_length, window, *options)
    hop = hop_length or n_fft // 4
    spectra: Any = (input if input.dim() == 3 else input.unsqueeze(0)).transpose(1, 2)
    norm = "ortho" if normalized else "backward"
    is_half = onesided if onesided is not None else spectra.shape[2] != n_fft
    if return_complex:
        frames = torch.fft.ifft(spectra, n=n_fft, norm=norm)
    elif is_half:
        frames = torch.fft.irfft(spectra, n=n_fft, norm=norm)
    else:
        frames = torch.fft.irfft(spectra[..., : n_fft // 2 + 1], n=n_fft, norm=norm)
    weights = _whole_window(window, win_length, n_fft, frames)
    count = spectra.shape[1]
    # On the CPU, with values of that size: errors and the length of the result are PyTorch's own.
    here = window.cpu() if isinstance(window, Tensor) else window
    expected = torch.istft(
        torch.zeros(1, *input.shape[-2:], dtype=input.dtype), n_fft, hop_length, win_length, here, *options
    )
    signal = _added_up(frames * weights, hop)
    envelope = _added_up(weights.square().expand(1, count, n_fft), hop)[0]
    begin, size = n_fft // 2 if center else 0, expected.shape[1]
    end = min(begin + size, signal.shape[1])
    result = F.pad(signal[:, begin:end] / envelope[begin:end], (0, size - (end - begin)))
    return result if input.dim() == 3 else result.squeeze(0)


functions.replaced[torch.stft] = functions.replaced[Tensor.stft] = stft
functions.replaced[torch.istft] = functions.replaced[Tensor.istft] = istft
