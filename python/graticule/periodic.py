"""Convolution on the globe."""

import torch.nn.functional as F
from torch import Tensor, nn


class PeriodicConv2d(nn.Module):
    """A convolution of (B, C, H, W) that closes longitudes and reflects latitudes.

    Pads W circularly and H by reflection, `padding` on each side, then convolves without padding.
    """

    def __init__(self, dim_in: int, dim_out: int, kernel_size: int | tuple[int, int], padding: int = 1) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(dim_in, dim_out, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """X (B, C, H, W) -> (B, C', H', W')."""
        p = self.padding
        x = F.pad(x, (p, p, 0, 0), mode="circular")
        return self.conv(F.pad(x, (0, 0, p, p), mode="reflect"))
