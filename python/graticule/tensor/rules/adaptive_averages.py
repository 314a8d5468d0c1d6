"""Adaptive average pooling to one value, above autograd: PyTorch's own ends by changing strides in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from graticule.tensor import functions
from graticule.tensor.domain_tensor import DomainTensor


def _to_one(pool: Callable[..., Tensor], spatial: int) -> Callable[..., Tensor]:
    """What runs in place of the pooling of so many dimensions: a mean, where each has one value in the end."""

    def run(input: Any, output_size: Any) -> Tensor:
        sizes: Sequence[Any] = output_size if isinstance(output_size, (list, tuple)) else [output_size] * spatial
        dims = input.dim()
        if not isinstance(input, DomainTensor) or any(size != 1 for size in sizes) or len(sizes) != spatial:
            return pool(input, output_size)
        if dims not in (spatial + 1, spatial + 2) or 0 in input.shape or not input.is_floating_point():
            return pool(input, output_size)
        return input.mean(list(range(dims - spatial, dims)), keepdim=True)

    return run


functions.replaced[F.adaptive_avg_pool1d] = _to_one(F.adaptive_avg_pool1d, 1)
functions.replaced[F.adaptive_avg_pool2d] = _to_one(F.adaptive_avg_pool2d, 2)
functions.replaced[F.adaptive_avg_pool3d] = _to_one(F.adaptive_avg_pool3d, 3)
