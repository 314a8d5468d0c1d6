"""torch.linalg.matrix_rank, above autograd: PyTorch's own writes nothing into `out` for a tensor's subclass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graticule.tensor import functions


def matrix_rank(*args: Any, out: Tensor | None = None, **kwargs: Any) -> Tensor:
    """As torch.linalg.matrix_rank."""
    rank = torch.linalg.matrix_rank(*args, **kwargs)
    return rank if out is None else torch.add(rank, 0, out=out)


functions.replaced[torch.linalg.matrix_rank] = matrix_rank
